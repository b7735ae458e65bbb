"""How far a training is, in whole lines: several trainings side by side stay readable, on a terminal and in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

EVERY_SECONDS = 5.0  # between two lines of one training
SHOWN = {"reward/observed": "reward", "validation/accuracy": "held-out accuracy"}


class Progress:
    """Says of one training how far it is: after the value warm-up, after the first and the last iteration, and every few seconds between."""

    def __init__(
        self, name: str, iterations: int, say: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.iterations, self.clock = name, iterations, clock
        self.say = say or (lambda text: sys.stderr.write(text + "\n"))  # in one piece, so that no other process's comes between
        self.ended: dict[int, float] = {}
        self.said_at = -EVERY_SECONDS

    def resume(self, iteration: int) -> None:
        """The run goes on after this iteration, which an earlier process finished."""
        self.ended[iteration] = self.clock()
        self.say(f"{self.name}: goes on after iteration {iteration} of {self.iterations}")

    def update(self, row: Mapping[str, Any]) -> None:
        """An iteration has ended with these metrics."""
        iteration, now = int(row["iteration"]), self.clock()
        self.ended[iteration] = now
        if iteration in (0, 1, self.iterations) or now - self.said_at >= EVERY_SECONDS:
            self.said_at = now
            self.say(f"{self.name}: {described(row, self.iterations, self.ended)}")


def described(row: Mapping[str, Any], iterations: int, ended: Mapping[int, float]) -> str:
    """How far a training is, e.g. "iteration 3 of 12, reward 0.710, held-out accuracy 0.630, 0:20 left".

    Args:
        row: metrics, the last known of each.
        iterations: of the whole run.
        ended: see `seconds_left`.
    """
    from tqdm import tqdm

    iteration = int(row["iteration"])
    start = "value warm-up done" if row["rollouts"] else "measured before training"
    parts = [f"iteration {iteration} of {iterations}" if iteration else start]
    parts += [f"{label} {row[key]:.3f}" for key, label in SHOWN.items() if key in row]
    if iteration < iterations and (left := seconds_left(ended, iterations)) is not None:
        parts.append(f"{tqdm.format_interval(left)} left")
    return ", ".join(parts)


def seconds_left(ended: Mapping[int, float], iterations: int) -> float | None:
    """Seconds that the iterations to come will take if they take as long as those that ended here; None before one has.

    Args:
        ended: when iterations ended, in seconds, by their numbers. The first of them sets the clock alone: it is the value warm-up, number 0,
            or the one after which a run goes on.
    """
    first, last = min(ended), max(ended)
    return (ended[last] - ended[first]) / (last - first) * (iterations - last) if last > first else None
