"""Wall-clock seconds per phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Elapsed:
    """Seconds of one timed block, set when it ends."""

    seconds: float = 0.0


class Timer:
    """Adds up seconds by phase: `with timer("rollout") as elapsed: ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Elapsed]:
        start, elapsed = time.perf_counter(), Elapsed()
        try:
            yield elapsed
        finally:
            elapsed.seconds = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed.seconds
