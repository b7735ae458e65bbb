"""Progress of trainings: whole lines, and a time left that the value warm-up has no part in."""

import sys

import pytest

from pipeline.stages.progress import EVERY_SECONDS, Progress, seconds_left


def rows(last: int, first: int = 0) -> list[dict[str, float]]:
    return [{"iteration": n, "rollouts": 64 * (n + 1), "reward/observed": 0.5 + n / 100} for n in range(first, last + 1)]


class Clock:
    def __init__(self) -> None:
        self.now, self.said = 1000.0, list[str]()

    def __call__(self) -> float:
        return self.now


def told(clock: Clock, iterations: int = 12) -> Progress:
    return Progress("ppo seed 0", iterations, say=clock.said.append, clock=clock)


def test_the_time_left_is_of_iterations_not_of_the_warm_up() -> None:
    clock = Clock()
    progress = told(clock)
    for row, took in zip(rows(3), (100.0, 10.0, 10.0, 13.0), strict=True):
        clock.now += took
        progress.update(row)
    assert clock.said == [
        "ppo seed 0: value warm-up done, reward 0.500",  # and no time left: nobody knows yet what an iteration takes
        "ppo seed 0: iteration 1 of 12, reward 0.510, 01:50 left",
        "ppo seed 0: iteration 2 of 12, reward 0.520, 01:40 left",
        "ppo seed 0: iteration 3 of 12, reward 0.530, 01:39 left",
    ]


def test_a_method_without_warm_up_says_that_it_measured() -> None:
    clock = Clock()
    told(clock).update({"iteration": 0, "rollouts": 0, "validation/accuracy": 0.25})
    assert clock.said == ["ppo seed 0: measured before training, held-out accuracy 0.250"]


def test_a_resumed_run_counts_what_it_did_itself() -> None:
    clock = Clock()
    progress = told(clock)
    progress.resume(5)
    clock.now += 20
    progress.update(rows(6)[6])
    clock.now += 20
    progress.update(rows(7)[7])
    assert clock.said == [
        "ppo seed 0: goes on after iteration 5 of 12",
        "ppo seed 0: iteration 6 of 12, reward 0.560, 02:00 left",
        "ppo seed 0: iteration 7 of 12, reward 0.570, 01:40 left",
    ]


def test_fast_iterations_do_not_flood_a_log() -> None:
    clock = Clock()
    progress = told(clock, iterations=100)
    for row in rows(100):
        clock.now += EVERY_SECONDS / 10
        progress.update(row)
    assert len(clock.said) == 3 + 9 and clock.said[-1].startswith("ppo seed 0: iteration 100 of 100") and "left" not in clock.said[-1]


@pytest.mark.parametrize(
    ("ended", "left"), [({0: 5.0}, None), ({4: 5.0}, None), ({0: 0.0, 1: 2.0, 2: 6.0}, 30.0), ({4: 0.0, 6: 4.0}, 12.0)]
)
def test_seconds_left(ended: dict[int, float], left: float | None) -> None:
    assert seconds_left(ended, 12) == left


def test_a_line_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another cell's could come between it and its end."""
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", type("Stream", (), {"write": lambda self, text: written.append(text)})())
    Progress("ppo seed 0", 2).update(rows(0)[0])
    assert written == ["ppo seed 0: value warm-up done, reward 0.500\n"]
