"""Chain arithmetic: generator, worksheet, verifier."""

import random

import pytest

from vrpo.tasks.math.chain import ChainTask, generate_problems, work_through


def evaluate(question: str) -> str:
    """An independent reading: left to right, each step modulo 10."""
    value = int(question[0])
    for operation, operand in zip(question[1::2], question[2::2], strict=True):
        value = eval(f"({value} {operation} {operand}) % 10")  # our own digits
    return str(value)


def test_answers_are_right_distinct_and_seeded() -> None:
    rows = generate_problems(300, 0, 1, 8, set())
    assert all(row["answer"] == evaluate(row["question"]) == row["solution"][-1] for row in rows)
    assert len({row["question"] for row in rows}) == 300
    assert {row["length"] for row in rows} == set(range(1, 9))
    assert rows == generate_problems(300, 0, 1, 8, set()) != generate_problems(300, 1, 1, 8, set())
    assert not {row["question"] for row in generate_problems(300, 0, 1, 8, {rows[0]["question"]})} & {rows[0]["question"]}


def test_too_many_problems_are_refused() -> None:
    with pytest.raises(ValueError, match="length 1 to 1"):
        generate_problems(200, 0, 1, 1, set())


def test_worksheet_and_verifier() -> None:
    task = ChainTask(max_length=4)
    assert task.prompt("3+5-2*4") == "3+5.-2.*4....:"
    assert len(task.prompt("3+5")) == len(task.prompt("3+5-2*4+1"))
    assert task.demonstration({"question": "3+5-2*4"}) == "+58-26*44"
    responses = ["+58-26*44", "+58-26*44?", "+57-25*44", "+58-26*45", "44", "", "+58-26*44extra"]
    assert task.verify(responses, ["4"] * 7) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert task.verify(["+04"], ["four"]) == [None]
    assert task.verify([task.canonical_response("7")], ["7"]) == [1.0]
    for bad in ("3+", "3++5", "x+5", "3+5+5+5+5+5"):
        with pytest.raises(ValueError, match=r"3\+|x\+"):
            task.prompt(bad)


def test_slips_happen_at_their_rate_and_the_writer_goes_on_from_them() -> None:
    rng = random.Random(0)
    sheets = [work_through("3+5-2*4", rng, slip_rate=0.3, hesitation_rate=0.5) for _ in range(4000)]
    first = [sheet[2] != "8" for sheet in sheets]
    assert sum(first) / 4000 == pytest.approx(0.3, abs=0.03)
    marked = [sheet[3] == "?" for sheet, slipped in zip(sheets, first, strict=True) if slipped]
    assert sum(marked) / len(marked) == pytest.approx(0.5, abs=0.06)
    assert not any(sheet[3] == "?" for sheet, slipped in zip(sheets, first, strict=True) if not slipped)
    carried = [sheet.replace("?", "") for sheet in sheets]
    agree = [int(sheet[5]) == (int(sheet[2]) - 2) % 10 for sheet in carried]
    assert sum(agree) / 4000 == pytest.approx(0.7, abs=0.03)


def test_a_writer_who_misreads_takes_products_for_sums_and_nothing_else() -> None:
    rng = random.Random(0)
    sheets = [work_through("3+5-2*4", rng, misread_rate=0.6) for _ in range(4000)]
    assert set(sheets) == {"+58-26*44", "+58-26*40"}  # 6 * 4 = 24, and 6 + 4 = 10
    assert sum(sheet.endswith("0") for sheet in sheets) / 4000 == pytest.approx(0.6, abs=0.03)
    row, task = {"question": "6*4"}, ChainTask(misread_rate=1.0)
    assert task.write(row, rng, slip_rate=0.0) == "*44" and task.demonstration(row) == "*44"  # the careful part of a corpus stays right
