"""How rewards are asked: the arguments a function takes, its scores as plain numbers, its mistakes by name.

A reward is any callable that takes some of these by name: `prompts`, `responses` or `completions` (texts, one per response), the rows'
other columns (in training also `completion_ids`, the response's tokens), `step` (the iteration) and `samples` (index of each response among
those to its prompt). So `f(prompts, responses, **columns)` and TRL's `f(completions, **columns)` both work. One that names its first two
arguments otherwise gets prompts and responses there. One with a method `metrics() -> dict` is asked for it after each iteration's scores: its
numbers join the log.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future
from decimal import Decimal
from inspect import Parameter
from numbers import Real
from threading import Thread
from typing import Any

import torch

from vrpo.errors import UserError, shown

Score = float | Sequence[float] | None  # of a response; of each of the policy's turns in a dialogue; not to be had
Reward = Callable[..., Sequence[Score]]

RESPONSES = ("responses", "completions")
LARGEST = torch.finfo(torch.float32).max  # rewards are float32
SHAPE = "one number, or None, for each response"


def check_reward(reward: Any, columns: Iterable[str]) -> None:
    """Make sure, before anything is sampled, that a reward can be asked about rows with these columns.

    Raises:
        UserError: it is no function or a coroutine function, or wants an argument that nobody has.
    """
    if not callable(reward):
        raise UserError(f"the reward is {shown(reward)}, no function; give one function (prompts, responses, **columns) -> list of scores")
    if inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__):
        raise UserError(
            f"the reward {reward_name(reward)} is a coroutine function (async def); give a plain one, for instance "
            "lambda *arguments, **columns: asyncio.run(reward(*arguments, **columns))"
        )
    _arguments(reward, dict.fromkeys(("prompts", *RESPONSES, *columns, "step", "samples")))


def call_reward(
    reward: Reward, rows: Sequence[dict[str, Any]], texts: Sequence[str], step: int, samples: Sequence[int], timeout: float | None = None
) -> list[Score]:
    """Ask a reward for one score per response; numbers of numpy and torch become floats.

    Args:
        rows: with `prompt` and further columns, the same in all.
        texts: responses, one per row.
        step, samples: see above.
        timeout: seconds after which the reward is given up; None: never. With one it runs in a thread of its own.

    Raises:
        UserError: the reward raises, takes too long, or returns anything but one finite number, None, or numbers (turns) per response.
    """
    if not rows:  # a process without a share
        return []

    def ask(places: range) -> list[Any]:
        asked = [rows[place] for place in places]
        responses = [texts[place] for place in places]
        offered: dict[str, Any] = {"prompts": [row["prompt"] for row in asked]} | dict.fromkeys(RESPONSES, responses)
        offered |= {key: [row.get(key) for row in asked] for key in rows[0] if key != "prompt"}
        arguments, named = _arguments(reward, offered | {"step": step, "samples": [samples[place] for place in places]})
        return _within(timeout, lambda: _listed(reward(*arguments, **named), name), name)

    name = reward_name(reward)
    try:
        returned = ask(range(len(rows)))
    except UserError:
        raise
    except Exception as error:
        place = _first_failing(ask, len(rows))
        where = (
            f"a batch of {len(rows)} responses" if place is None else f"row {place}, {rows[place]['prompt']!r:.60} and {texts[place]!r:.60}"
        )
        reason = " ".join(str(error).split())
        raise UserError(f"the reward {name} failed in iteration {step} on {where}: {type(error).__name__}: {reason}") from error
    if len(returned) != len(texts):
        raise UserError(f"the reward {name} returned {len(returned)} scores for {len(texts)} responses; it must return {SHAPE}")
    return [_score(value, f"reward {place} in iteration {step} is") for place, value in enumerate(returned)]


def plain_reward(reward: Reward) -> Reward:
    """A reward as f(prompts, responses, *, step, samples, **columns), whatever arguments it names itself: for what stands around it."""

    def plain(prompts: list[Any], responses: list[str], *, step: int, samples: list[int], **columns: list[Any]) -> list[Score]:
        rows = [dict(zip(("prompt", *columns), values, strict=True)) for values in zip(prompts, *columns.values(), strict=True)]
        return call_reward(reward, rows, responses, step, samples)

    return plain


def totals(scores: Sequence[Score]) -> list[float | None]:
    """One number per response, the sum over its turns where each has its own."""
    return [score if score is None or isinstance(score, int | float) else sum(score) for score in scores]


def reward_name(reward: Any) -> str:
    """What a reward is called in errors: a function's name, the class of anything else."""
    function = getattr(reward, "func", reward)  # of functools.partial
    return getattr(function, "__qualname__", type(function).__qualname__)


def require_scores(scores: Sequence[Score], what: str) -> None:
    """Refuse scores that are None, all of them: nothing can be learned or measured.

    Raises:
        UserError: names `what` was scored.
    """
    if all(score is None for score in scores):
        raise UserError(
            f"the reward is None for all {len(scores)} {what}: not one could be scored; look at the responses, and at what the reward can read"
        )


def _arguments(reward: Any, offered: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments for a reward, out of what is offered."""
    try:
        signature = inspect.signature(getattr(reward, "forward", reward))  # torch calls a module's `forward` behind `*args`
    except (TypeError, ValueError):  # of some functions written in C
        signature = inspect.signature(lambda *arguments, **columns: None)
    parameters = signature.parameters.values()
    any_place, any_name = (any(p.kind is kind for p in parameters) for kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD))
    single = [p for p in parameters if p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
    names = [p.name for p in single]
    lacking = [p.name for p in single if p.default is Parameter.empty and p.name not in offered]
    first = [p.name for p in single if p.kind is not Parameter.KEYWORD_ONLY][:2]
    texts = [name for name in RESPONSES if name in names]
    # By place, where the first two arguments are not known by name and the second one can take responses.
    unknown = not {*lacking}.isdisjoint(first) or not (texts or any_name)
    free = len(first) == 2 and first[0] not in RESPONSES and (first[1] in RESPONSES or first[1] not in offered)
    if (unknown and free) or (any_place and not texts):
        arguments, hidden = [offered["prompts"], offered[RESPONSES[0]]], {"prompts", *RESPONSES, *first}
        lacking = [name for name in lacking if name not in first]
    elif texts or any_name:
        given = [p.name for p in single if p.kind is Parameter.POSITIONAL_ONLY and p.name in offered]
        arguments, hidden = [offered[name] for name in given], {*given, *(set(RESPONSES).difference(texts) if texts else ())}
    else:
        raise UserError(
            f"the reward {reward_name(reward)}{signature} does not say where it takes the responses; "
            "write it as f(prompts, responses, **columns) or f(completions, **columns)"
        )
    if lacking:
        raise UserError(
            f"the reward {reward_name(reward)} wants {', '.join(lacking)}, which is no column of the data; there are {', '.join(offered)}. "
            "Add it to the rows, or give the argument a default"
        )
    return arguments, {name: value for name, value in offered.items() if name not in hidden and (any_name or name in names)}


def _within(seconds: float | None, ask: Callable[[], list[Any]], name: str) -> list[Any]:
    """What `ask` returns, if it does so in time. Python cannot end a thread: one that is late runs on until the program ends."""
    if seconds is None:
        return ask()
    outcome: Future[list[Any]] = Future()

    def work() -> None:
        try:
            outcome.set_result(ask())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=work, name=f"reward {name}", daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():  # the reward's own
            raise
        raise UserError(
            f"the reward {name} took more than train.reward_timeout = {seconds:g} s over a batch of responses; make it faster or raise the limit"
        ) from None


def _first_failing(ask: Callable[[range], Any], count: int) -> int | None:
    """The place of the first response on which a reward fails alone, found by halves; None where it fails on the whole batch only."""

    def fails(places: range) -> bool:
        try:
            ask(places)
        except Exception:
            return True
        return False

    places = range(count)
    while len(places) > 1:
        half = places[: len(places) // 2]
        places = half if fails(half) else places[len(half) :]
    return places[0] if fails(places) else None


def _listed(returned: Any, name: str) -> list[Any]:
    """What a reward returned as a list, whatever sequence, array or generator it is."""
    if inspect.iscoroutine(returned):
        returned.close()  # or Python warns that nobody awaited it
    plain = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(plain, Iterable) or isinstance(plain, str | bytes | Mapping | Set):
        raise UserError(f"the reward {name} returned {shown(returned)}; it must return {SHAPE}")
    return list(plain)


def _score(value: Any, where: str) -> Score:
    """One score as floats, made from any real number or flat sequence of them."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    if plain is None:
        return None
    turns = isinstance(plain, list | tuple)
    numbers = [number.tolist() if hasattr(number, "tolist") else number for number in (plain if turns else [plain])]
    if not all(isinstance(number, Real | Decimal) for number in numbers):
        raise UserError(f"{where} {shown(value)}; a reward must return {SHAPE}, in a dialogue also a list of numbers, one a turn")
    try:
        floats = [float(number) for number in numbers]
    except OverflowError:  # an integer beyond all floats
        floats = [math.inf]
    if not all(abs(number) <= LARGEST for number in (*floats, sum(floats))):
        raise UserError(f"{where} {shown(value)}, no finite float32; return None for a response that cannot be scored")
    return floats if turns else floats[0]
