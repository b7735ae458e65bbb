"""The moments at which transformers' callbacks are called, told by a run of ours: its rows become logs, its iterations steps.

An iteration is one sampling and all its optimiser steps, so `state.global_step` grows by `Plan.stride` and intervals are rounded up to whole
iterations. Row 0, the value warm-up and the first measurement, is logged as step 0.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback, ProgressCallback

from vrpo.adapters.config import VRPOConfig
from vrpo.adapters.plan import Plan
from vrpo.errors import UserError

Row = dict[str, float]
TRL_NAMES = {  # ours: what TRL's logs call it; both are logged
    "policy/loss": "loss",
    "reward/observed": "reward",
    "policy/entropy": "entropy",
    "policy/kl": "kl",
    "length/mean": "completions/mean_length",
}
EVALUATION = "validation/"
COUNTERS = {"iteration", "rollouts"}


class Moments:
    """Calls callbacks while a run goes on, and keeps `TrainerState` and `TrainerControl`.

    Args:
        args: of the trainer.
        plan: of the run.
        callbacks: beside those that `args` ask for, instances or classes.
        processing_class: the tokenizer, which callbacks get.
        main: whether this process reports.

    Raises:
        UserError: a tracker is not installed.
    """

    def __init__(self, args: VRPOConfig, plan: Plan, callbacks: Iterable[Any], processing_class: Any, main: bool) -> None:
        self.args, self.plan, self.control = args, plan, TrainerControl()
        self.state = TrainerState(
            max_steps=plan.max_steps,
            num_train_epochs=max(1, round(plan.epochs)),
            train_batch_size=args.per_device_train_batch_size,
            logging_steps=plan.logged_every * plan.stride,
            eval_steps=plan.train.measure_every * plan.stride,
            save_steps=plan.train.checkpoint_every * plan.stride,
            is_local_process_zero=main,
            is_world_process_zero=main,
        )
        progress = [] if args.disable_tqdm else [ProgressCallback]
        self.handler = _handler([*_trackers(args), *progress, *callbacks], None, processing_class)
        self.unlogged: list[Row] = []

    def call(self, event: str, **details: Any) -> None:
        """One event, `on_train_begin` say."""
        self.control = getattr(self.handler, event)(self.args, self.state, self.control, **details)

    def finished(self, row: Row, save: Callable[[], None], evaluate: Callable[[], object]) -> None:
        """An iteration is over: log it, say what was measured and saved, and measure and save where callbacks ask for it.

        Args:
            row: of the run's log.
            save, evaluate: what to do where the run has not done it by itself.
        """
        iteration = int(row["iteration"])
        self._advance(iteration)
        if iteration:
            self.call("on_step_end")
        evaluation = {name: value for name, value in row.items() if name.startswith(EVALUATION)}
        self.unlogged.append({name: value for name, value in row.items() if name not in evaluation})
        if self.control.should_log or self._due(iteration):
            self.log(self._means())
        if evaluation:
            self.evaluated(evaluation_logs(evaluation))
        elif self.control.should_evaluate:
            evaluate()
        if self.args.save_strategy != "no" and (
            not iteration % self.plan.train.checkpoint_every or iteration == self.plan.train.iterations
        ):
            if iteration:
                self.call("on_save")
        elif self.control.should_save:
            save()
            self.call("on_save")

    def log(self, logs: Row) -> None:
        """Add to the history and tell callbacks; NaN is not logged."""
        logs = {name: value for name, value in logs.items() if value == value}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.call("on_log", logs=logs)

    def evaluated(self, metrics: Row) -> None:
        """Log what was measured, and remember the best of `args.metric_for_best_model`."""
        self.log(dict(metrics))
        self.call("on_evaluate", metrics=metrics)
        name = self.args.metric_for_best_model
        if name is None:
            return
        value = metrics.get(name, metrics.get(f"eval_{name}"))
        if value is None:
            raise UserError(f"metric_for_best_model = {name!r}: nothing is measured under this name; use one of {', '.join(metrics)}")
        best = self.state.best_metric
        if best is None or (value > best if self.args.greater_is_better else value < best):
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step

    def replay(self, rows: Iterable[Row]) -> None:
        """Put the state where a run's rows leave it, without a word to callbacks: they heard it before the kill."""
        heard, self.handler = self.handler, _handler([], None, self.handler.processing_class)
        self.state.log_history, self.state.best_metric, self.unlogged = [], None, []
        for row in rows:
            self.finished(row, lambda: None, lambda: None)
        self.handler, self.control = heard, TrainerControl()

    def _advance(self, iteration: int) -> None:
        self.state.global_step = iteration * self.plan.stride
        self.state.epoch = self.plan.epochs * iteration / self.plan.train.iterations

    def _due(self, iteration: int) -> bool:
        """Whether to log though no callback says so: row 0, if it says anything, and the ends of passes over the prompts."""
        if not iteration:
            return self.args.logging_strategy != "no" and bool(self.unlogged[0].keys() - COUNTERS)
        return self.args.logging_strategy == "epoch" and iteration % self.plan.logged_every == 0

    def _means(self) -> Row:
        """What was not logged yet as one row: means, and the last of what only grows."""
        rows, self.unlogged = self.unlogged, []
        names = dict.fromkeys(name for row in rows for name in row)
        found = {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}
        found |= {name: rows[-1][name] for name in COUNTERS}
        found |= {theirs: found[ours] for ours, theirs in TRL_NAMES.items() if ours in found}
        return found | {"epoch": self.state.epoch}


def evaluation_logs(measured: Row, prefix: str = "eval") -> Row:
    """What a run measured on evaluation rows by TRL's names, `<prefix>_reward` first."""
    found = {name.removeprefix(EVALUATION): value for name, value in measured.items()}
    return {f"{prefix}_reward": found.pop("accuracy")} | {f"{prefix}_{name}": value for name, value in found.items()}


def _handler(callbacks: list[Any], model: Any, processing_class: Any) -> CallbackHandler:
    return CallbackHandler([DefaultFlowCallback, *callbacks], model, processing_class, None, None)


def _trackers(args: VRPOConfig) -> list[type[TrainerCallback]]:
    """The callbacks of `report_to`, made here so that one that is missing is named before any work."""
    made = []
    for name in args.report_to:
        for kind in get_reporting_integration_callbacks([name]):
            try:
                made.append(kind())
            except (RuntimeError, ImportError) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"report_to = {name!r}: not installed ({reason}); install it or leave it out") from error
    return made
