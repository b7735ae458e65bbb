"""Multiple choice: reading and checking answers."""

import pytest

from vrpo.config import Params
from vrpo.tasks.loader import load_task
from vrpo.tasks.science import ScienceTask, option_lines, read_option


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("B", ("B", "")),
        ("(b)", ("B", "")),
        ("B. Copper wire", ("B", "copper wire")),
        ("C) 3", ("C", "3")),
        (r"\text{(D)}", ("D", "")),
        ("option A", ("A", "")),
        ("Copper", ("", "copper")),
        ("A cat", ("", "a cat")),
        ("$12$", ("", "12")),
        ("", ("", "")),
    ],
)
def test_options_as_people_state_them(said, expected):
    assert read_option(said) == expected


def test_letters_and_texts_are_accepted_and_nothing_else():
    task, gold = ScienceTask(), "B. Copper"
    said = ["B", "(B)", "copper", r"\text{B. copper}", "B) Copper.", "A", "gold", "A. Copper", "AB", ""]
    right = [1.0] * 5 + [0.0] * 5
    assert task.verify([rf"So it is \boxed{{{one}}}" for one in said], [gold] * len(said)) == right
    assert task.verify(["It is B.", "B"], [gold] * 2) == [0.0, 0.0]  # nothing boxed
    assert task.verify([task.canonical_response(gold)], [gold]) == [1.0]


def test_a_vote_is_a_letter_and_cannot_judge_texts():
    task = ScienceTask()
    assert task.verify([r"\boxed{B}", r"\boxed{C. x}", r"\boxed{copper}", r"\boxed{B}"], ["B", "B", "B", ""]) == [1.0, 0.0, None, None]
    assert task.extract(r"\boxed{b. copper}") == "B"
    assert task.extract(r"\boxed{Copper}") == "copper"
    assert task.extract("B") is None


def test_up_to_26_options():
    lines, choices = option_lines([f"o{n}" for n in range(10)])
    assert lines[9] == "J. o9"
    assert choices[9] == {"label": "J", "text": "o9"}
    for count in (1, 27):
        with pytest.raises(ValueError, match=f"{count} options"):
            option_lines(["x"] * count)


def test_real_text_in_domain_science_is_multiple_choice():
    assert isinstance(load_task(Params(domain="science", prepare={"dataset": "mine.jsonl"})), ScienceTask)
