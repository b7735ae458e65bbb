"""From `VRPOConfig` to the settings of a run: how many steps of what size, and each argument's place in `vrpo.config`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vrpo.adapters.config import SETTINGS, VRPOConfig
from vrpo.config import GenerationConfig, TrainConfig
from vrpo.errors import UserError, shown

T = TypeVar("T")
CRITIC_RATE = 10  # times the policy's learning rate, where nobody says


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        train, generation: its settings.
        logged_every: iterations between two logs.
        stride: optimiser steps of the policy in one iteration of sampling and updating: iteration i ends with step `i * stride`.
        epochs: passes over the prompts.
    """

    train: TrainConfig
    generation: GenerationConfig
    logged_every: int
    stride: int
    epochs: float

    @property
    def max_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.train.iterations * self.stride


def plan(args: VRPOConfig, rows: int, processes: int = 1) -> Plan:
    """The run that `args` ask for on `rows` prompts.

    Every method samples the same number of responses: one with a critic takes its value warm-up out of them (see `TrainConfig.value_warmup`).

    Raises:
        UserError: names the argument that cannot be, its value and the cure.
    """
    forward = args.per_device_train_batch_size * processes
    passes, batch = _passes(args, forward)
    each = args.num_generations * rows / batch  # iterations of one pass over the prompts
    stride = passes // args.gradient_accumulation_steps * args.num_iterations
    if args.max_steps > 0:
        if args.max_steps % stride:
            raise UserError(
                f"max_steps = {args.max_steps}: one sampling serves {stride} optimiser steps (steps_per_generation / "
                f"gradient_accumulation_steps * num_iterations); use {max(1, round(args.max_steps / stride)) * stride}"
            )
        iterations = args.max_steps // stride
    else:
        iterations = max(1, math.ceil(args.num_train_epochs * each - 1e-9))
    steps = iterations * stride

    def interval(name: str, strategy: str, value: float) -> int:
        """Iterations between two of something."""
        if strategy == "steps" and (value < 1 or value != int(value)):
            raise UserError(f"{name} = {value}: give a whole number of steps, 1 or more")
        every = value / stride if strategy == "steps" else each if strategy == "epoch" else iterations
        return max(1, math.ceil(every - 1e-9))

    warmup = args.warmup_steps if args.warmup_steps >= 1 else args.warmup_steps * steps
    values: dict[str, dict[str, Any]] = {"train": {}, "generation": {}}
    for name, setting in SETTINGS.items():
        section, _, key = setting.partition(".")
        values[section][key] = getattr(args, name)
    values["train"] |= {
        "iterations": iterations,
        "rollouts": iterations * batch,
        "minibatches": passes // args.gradient_accumulation_steps,
        "lr_warmup": math.ceil(warmup / stride),
        "measure_every": interval("eval_steps", args.eval_strategy, args.eval_steps or args.logging_steps),
        "checkpoint_every": interval("save_steps", args.save_strategy, args.save_steps),
        "critic": {"learning_rate": CRITIC_RATE * args.learning_rate} | (args.critic or {}),
    }
    train, generation = valid(TrainConfig, values["train"], "train"), valid(GenerationConfig, values["generation"], "generation")
    logged = interval("logging_steps", args.logging_strategy, args.logging_steps)
    return Plan(train, generation, logged, stride, iterations / each)


def _passes(args: VRPOConfig, forward: int) -> tuple[int, int]:
    """Forward passes to the responses of one sampling, and their number."""
    for name in (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "steps_per_generation",
        "generation_batch_size",
        "num_generations",
    ):
        if (value := getattr(args, name)) is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{name} = {value!r}: give a whole number, 1 or more")
    passes, accumulated = args.steps_per_generation, args.gradient_accumulation_steps
    if args.generation_batch_size is not None:
        if passes is not None:
            raise UserError(
                f"generation_batch_size = {args.generation_batch_size}: says the same as steps_per_generation = {passes}; give one of them"
            )
        if args.generation_batch_size % forward:
            raise UserError(
                f"generation_batch_size = {args.generation_batch_size}: no multiple of per_device_train_batch_size * processes = {forward}"
            )
        passes = args.generation_batch_size // forward
    passes = passes or accumulated
    if passes % accumulated:
        raise UserError(
            f"steps_per_generation = {passes}: no multiple of gradient_accumulation_steps = {accumulated}; use {math.ceil(passes / accumulated) * accumulated}"
        )
    if (batch := passes * forward) % args.num_generations:
        raise UserError(
            f"num_generations = {args.num_generations}: {batch} responses (per_device_train_batch_size * processes * steps_per_generation) are no "
            f"whole number of groups; use a divisor of {batch}, or other sizes"
        )
    return passes, batch


def valid(kind: type[T] | TypeAdapter[T], values: Any, section: str) -> T:
    """Values as their type, their mistakes by the names that arguments have.

    Raises:
        UserError: names the argument, its value and what is wrong with it.
    """
    names = {setting: name for name, setting in SETTINGS.items()}
    try:
        return (kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)).validate_python(values)
    except ValidationError as error:
        issue = error.errors()[0]
        place = [section, *map(str, issue["loc"])]
        if section in ("train", "generation"):
            place = [names.get(".".join(place[:2]), ""), *place[2:]]
        name = ".".join(filter(None, place))
        if issue["type"] == "value_error":
            raise UserError(": ".join(filter(None, [name, str(issue["ctx"]["error"])]))) from None
        said = f"{name or section} = {shown(issue['input'])}: {issue['msg']}"
        raise UserError(
            f"{said}; docs/parameters.md lists what there is" if issue["type"] == "extra_forbidden" else f"{said}; correct it"
        ) from None
