"""What `vrpo train` does where nobody says: numbers that fit a model and its data. Rules of thumb, each in one place."""

from __future__ import annotations

import math
from typing import Any

RATES = ((2e6, 5e-4), (3e7, 5e-5), (1e9, 5e-6), (math.inf, 1e-6))  # learning rates of models of up to so many parameters
LORA_RATE = 10  # times that
FORWARD = ((3e7, 32), (1e9, 8), (math.inf, 2))  # responses per forward pass
LARGE = 1e8  # parameters from which the critic shares the policy's backbone: one more copy and its optimiser do not fit beside it
RESPONSES, GROUP, TOKENS = 64, 8, 256  # of a step, to a prompt, of a response
PASSES, FEWEST, MOST = 3, 20, 200  # over the prompts, and the limits of steps
HELD_OUT = 64  # rows at most


def held_out(rows: int) -> int:
    """Rows that are kept from training to measure on: a tenth, none of fewer than ten."""
    return min(HELD_OUT, rows // 10)


def defaults(parameters: int, positions: int | None, longest_prompt: int, rows: int, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `VRPOConfig` beside those that are given.

    Args:
        parameters: of the model.
        positions: that the model has; None: no limit is known.
        longest_prompt: of the data, in tokens.
        rows: of the training data.
        given: what the user asked for, by `VRPOConfig`'s names.
    """
    forward = given.get("per_device_train_batch_size") or _up_to(parameters, FORWARD)
    group = given.get("num_generations") or math.gcd(GROUP, forward)
    passes = max(1, RESPONSES // forward)
    prompts = forward * passes / group
    steps = given.get("max_steps") or max(FEWEST, min(MOST, math.ceil(PASSES * rows / prompts)))
    room = TOKENS if positions is None else max(1, min(TOKENS, positions - longest_prompt))
    found = {
        "per_device_train_batch_size": forward,
        "gradient_accumulation_steps": passes,
        "per_device_eval_batch_size": RESPONSES,
        "num_generations": group,
        "max_steps": steps,
        "max_completion_length": room,
        "learning_rate": _up_to(parameters, RATES) * (LORA_RATE if given.get("lora") else 1),
        "gradient_checkpointing": parameters > RATES[-2][0],
        "save_steps": 1,
        "eval_steps": max(1, steps // 10),
    }
    if parameters >= LARGE and not given.get("lora"):
        found["critic"] = {"backbone": "shared", "loss_weight": 0.1}
    return found | given


def _up_to(parameters: int, table: tuple[tuple[float, Any], ...]) -> Any:
    return next(value for limit, value in table if parameters <= limit)
