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
        self.seconds: dict[str, float] = {}  # of the blocks that have ended
        self._running: dict[str, float] = {}  # when each phase's block began

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Elapsed]:
        start, elapsed = time.perf_counter(), Elapsed()
        self._running[phase] = start
        try:
            yield elapsed
        finally:
            elapsed.seconds = time.perf_counter() - start
            self.seconds = self.so_far()
            del self._running[phase]

    def so_far(self) -> dict[str, float]:
        """`seconds`, and those of a block that has not ended yet: what a checkpoint written inside one keeps."""
        now = time.perf_counter()
        return self.seconds | {phase: self.seconds.get(phase, 0.0) + now - start for phase, start in self._running.items()}
