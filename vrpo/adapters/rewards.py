"""TRL's reward functions as one reward of ours: several with weights, on texts or conversations, with noise on what training sees."""

from __future__ import annotations

import asyncio
import inspect
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any

from vrpo.data.prompts import TOKENS
from vrpo.errors import UserError, shown
from vrpo.rewards.calling import Score, call_reward, check_reward, reward_name, totals
from vrpo.rewards.noise import Noise

CONVERSATION = "_conversation"  # column of a row's prompt as messages, where it came as such


class Rewards:
    """The weighted sum of reward functions, called as TRL calls them: `f(prompts, completions, **columns)`, everything by name.

    Beside the columns there are `completion_ids`, `trainer_state` and `log_metric(name, value)`, and ours, `step` and `samples`. Where prompts
    are conversations, prompts and completions are lists of messages. A function that returns None for a response has no say about it; a
    response about which none has a say is not scored.

    Args:
        functions: one or several.
        weights: of the functions; None: 1 each.
        state: `transformers.TrainerState` of the run.

    Raises:
        UserError: there is no function, one is none, or weights are not one a function.
    """

    def __init__(self, functions: Callable[..., Any] | Sequence[Callable[..., Any]], weights: Sequence[float] | None, state: Any) -> None:
        given = list(functions) if isinstance(functions, list | tuple) else [functions]
        if not given or functions is None:
            raise UserError(f"reward_funcs = {functions!r}: give a function (prompts, completions, **columns) -> scores, or a list of them")
        for place, function in enumerate(given):
            if not callable(function) or hasattr(function, "base_model_prefix"):
                raise UserError(
                    f"reward_funcs[{place}] is {shown(function)}: give a function (prompts, completions, **columns) -> scores; it may ask a "
                    "reward model (vrpo.rewards.model.RewardModelScorer)"
                )
        if weights is not None and len(weights) != len(given):
            raise UserError(f"reward_weights = {list(weights)}: {len(weights)} weights for {len(given)} reward functions; give one each")
        self.weights = [1.0] * len(given) if weights is None else [float(weight) for weight in weights]
        self.names = _distinct(reward_name(function).rpartition(".")[2] for function in given)
        self._said: dict[str, list[float]] = {}
        offered = {"trainer_state": state, "log_metric": self._log_metric}
        self.functions = [_with(function, offered) for function in given]
        self._last: tuple[Any, list[Score]] = (None, [])

    def check(self, columns: Iterable[str]) -> None:
        """Make sure that each function can be asked about rows with these columns (see `check_reward`)."""
        known = [name for name in columns if name not in ("prompt", CONVERSATION)]
        for function in self.functions:
            check_reward(function, [*known, TOKENS])

    def __call__(self, prompts: list[str], responses: list[str], *, step: int, samples: list[int], **columns: list[Any]) -> list[Score]:
        """One score a response. The same question asked twice in a row has one answer: noise and measurement share it."""
        question = (step, list(prompts), list(responses), list(samples))
        if self._last[0] == question:
            return self._last[1]
        self._said = {}
        conversations = columns.pop(CONVERSATION, [None] * len(prompts))
        rows = [
            {"prompt": prompt if messages is None else messages} | {name: values[place] for name, values in columns.items()}
            for place, (prompt, messages) in enumerate(zip(prompts, conversations, strict=True))
        ]
        said = [
            text if messages is None else [{"role": "assistant", "content": text}]
            for text, messages in zip(responses, conversations, strict=True)
        ]
        scores = [totals(call_reward(function, rows, said, step, samples)) for function in self.functions]
        for name, column in zip(self.names, scores, strict=True):
            if known := [score for score in column if score is not None]:
                self._log_metric(f"rewards/{name}/mean", statistics.fmean(known))
                self._log_metric(f"rewards/{name}/std", statistics.pstdev(known))
        self._last = question, [self._sum(row) for row in zip(*scores, strict=True)]
        return self._last[1]

    def metrics(self) -> dict[str, float]:
        """Mean and spread of each function over the last batch, and what functions gave to `log_metric` about it."""
        return {name: statistics.fmean(values) for name, values in self._said.items()}

    def _sum(self, scores: Sequence[float | None]) -> float | None:
        known = [weight * score for weight, score in zip(self.weights, scores, strict=True) if score is not None]
        return sum(known) if known else None

    def _log_metric(self, name: str, value: float) -> None:
        self._said.setdefault(name, []).append(float(value))


class NoisyRewards:
    """Rewards as training sees them, after noise channels. A problem is a row's `id`, or its prompt.

    Args:
        rewards: the clean ones.
        noise: channels under the run's seed.
    """

    def __init__(self, rewards: Rewards, noise: Noise) -> None:
        self.rewards, self.noise, self.metrics = rewards, noise, rewards.metrics

    def __call__(self, prompts: list[str], responses: list[str], *, step: int, samples: list[int], **columns: list[Any]) -> list[Score]:
        clean = self.rewards(prompts, responses, step=step, samples=samples, **columns)
        ids = [str(problem) for problem in columns.get("id", prompts)]
        return self.noise(clean, step=step, ids=ids, samples=samples, responses=responses)


def _with(function: Callable[..., Any], offered: dict[str, Any]) -> Callable[..., Any]:
    """A function with what of `offered` it takes; one that is a coroutine waits for itself, in a thread, since notebooks have a loop running."""
    parameters = inspect.signature(function).parameters.values()
    everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {name: value for name, value in offered.items() if everything or name in {parameter.name for parameter in parameters}}
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)):
        return partial(function, **taken)

    @wraps(function)
    def waited(*arguments: Any, **named: Any) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(function(*arguments, **named))).result()

    return partial(waited, **taken)


def _distinct(names: Iterable[str]) -> list[str]:
    """Names that occur again get a number."""
    found: list[str] = []
    for name in names:
        found.append(name if name not in found else f"{name}_{len(found)}")
    return found
