"""A run is known by what its data hold, not by how they print."""

import enum
import threading
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import trainer

from vrpo.errors import UserError
from vrpo.training.identity import content, digest_rows


@dataclass
class Point:
    x: int
    tags: frozenset = frozenset()


class Other(Point):
    pass


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def adder(step):
    return lambda value: value + step


def with_itself() -> list:
    rows: list = [1]
    rows.append(rows)
    return rows


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({0, 8}, {8, 0}),  # two sets that iterate in different orders
        ({"b": 1, "a": [2]}, {"a": [2], "b": 1}),
        ([1.5, 2.5], np.array([1.5, 2.5])),
        ((1, 2), torch.tensor([1, 2])),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        (1.5, np.float32(1.5)),
        (Point(1, frozenset("ab")), Point(1, frozenset("ba"))),
        (adder(1), adder(1)),
        (with_itself(), with_itself()),
        (b"ab", bytearray(b"ab")),
    ],
)
def test_equal_contents_are_the_same_whatever_their_order_and_container(one, same) -> None:
    assert content(one) == content(same)


def test_contents_that_differ_are_never_the_same() -> None:
    long = np.arange(5000.0)  # printed, its middle is "..."
    changed = long.copy()
    changed[2500] += 1
    values = [
        None,
        True,
        1,
        1.0,
        "1",
        b"1",
        "",
        [],
        {},
        set(),
        [[]],
        [1, [2]],
        [[1], 2],
        [1, 2],
        {1, 2},
        {1: 2},
        {2: 1},
        "a\ud800",
        "a\udfff",
    ]
    values += [long, changed, Point(1), Other(1), Point(2), Colour.RED, Colour.BLUE, date(2020, 1, 1), date(2020, 1, 2), Decimal(1)]
    values += [adder(1), adder(2), lambda value: value, len, max, ["ab", "c"], ["a", "bc"], Point, Other, with_itself()]
    assert len({content(value) for value in values}) == len(values)


def test_data_sets_are_told_apart_by_every_row_and_split() -> None:
    rows = [{"prompt": "a", "tags": {"x", "y"}}, {"prompt": "b", "tags": set()}]
    same = digest_rows({"training": rows, "validation": []})
    assert digest_rows({"training": [dict(reversed(row.items())) for row in rows], "validation": ()}) == same
    others = [rows[::-1], rows[:1], [*rows, rows[0]], [{"prompt": "a", "tags": {"x"}}, rows[1]]]
    assert len({same, *(digest_rows({"training": other, "validation": []}) for other in others)}) == 5
    assert digest_rows({"training": [], "validation": rows}) != same
    listed = [{"prompt": "a", "tags": [1, 2]}, {"prompt": "b", "tags": [3]}]
    assert digest_rows({"training": Dataset.from_list(listed)}) == digest_rows({"training": listed})


def test_a_value_without_content_is_refused_with_its_place(tokenizer, problems) -> None:
    with pytest.raises(UserError, match="training row 1: column 'lock' holds a lock whose content cannot be told from another's"):
        trainer(tokenizer, [problems[0] | {"lock": None}, problems[1] | {"lock": threading.Lock()}], "grpo")


def test_the_trainer_knows_its_data_again_and_no_others(tokenizer, problems) -> None:
    def data(tags, weights) -> str:
        return trainer(tokenizer, [row | {"tags": tags, "weights": weights} for row in problems], "grpo").fingerprint["data"]

    weights = np.arange(5000.0)
    other = weights.copy()
    other[2500] = -1
    assert data({0, 8}, weights) == data({8, 0}, weights.tolist()) != data({0, 8}, other)
