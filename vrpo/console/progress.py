"""How a training run is told on a terminal: a line now and then, and what changed from start to end."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

LINES = 25  # about
SHOWN = {"reward": "reward", "eval_reward": "held out", "completions/mean_length": "tokens"}


class Progress(TrainerCallback):
    """Prints a line for about every 25th of a run: rewards, lengths, and how long the rest will take."""

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self.start, self.first = time.perf_counter(), 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.start, self.first = time.perf_counter(), state.global_step
        if state.global_step:
            print(f"goes on after step {state.global_step} of {state.max_steps}", flush=True)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The last step's line: by now it is logged and measured."""
        self._line(state)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float], **kwargs: Any) -> None:
        self.latest |= {name: logs[name] for name in SHOWN if name in logs}

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._line(state)

    def _line(self, state: TrainerState) -> None:
        step, every = state.global_step, max(1, state.max_steps // LINES)
        if not self.latest or (step % every and step != state.max_steps):
            return
        done, seconds = step - self.first, time.perf_counter() - self.start
        left = f"{in_words(seconds / done * (state.max_steps - step))} left" if done > 0 and step < state.max_steps else ""
        values = "  ".join(f"{said} {self.latest[name]:.4g}" for name, said in SHOWN.items() if name in self.latest)
        print(f"step {step:>{len(str(state.max_steps))}}/{state.max_steps}  {values}  {left}".rstrip(), flush=True)
        self.latest = {}


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def start_to_end(history: list[dict[str, float]]) -> list[str]:
    """A line for each figure that a run logged at least twice: its first and its last value."""
    lines = []
    for name, said in SHOWN.items():
        values = [entry[name] for entry in history if name in entry]
        if len(values) > 1:
            lines.append(f"{said:<9} {values[0]:.4g} -> {values[-1]:.4g}")
    return lines
