"""What is not finite, and why: errors name the cause, and blame the learning rate only where nothing else explains it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import torch
from torch import Tensor, nn

from vrpo.data.batch import Experience
from vrpo.errors import UserError

HALF = (torch.float16, torch.bfloat16)
LARGEST = 1e15  # squares of advantages and value targets beyond it, summed up, leave float32


def refuse_half_weights(name: str, parameters: Iterable[nn.Parameter]) -> None:
    """Weights that are to be trained must be float32: bfloat16 has 8 digits, so that a step below 1/256 of a weight is rounded away.

    Raises:
        UserError: one of them is not.
    """
    if half := next((parameter.dtype for parameter in parameters if parameter.dtype in HALF), None):
        raise UserError(
            f"{name}: the weights to be trained are {_short(half)}, in which most updates round to nothing; "
            "call model.float() first (computing in half precision is a matter of `precision`)"
        )


def broken_weight(model: nn.Module) -> str | None:
    """The first of the model's weights that holds NaN or infinity, by name."""
    return next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None)


def broken_logits(model: nn.Module, logits: Tensor, temperature: float) -> UserError:
    """Why nothing can be sampled from logits [B, V] of which some are NaN or infinite once they are divided by the temperature."""
    if name := broken_weight(model):
        why = f"its weight {name} holds NaN or infinity; use an earlier checkpoint or another copy of the model"
    elif not (logits.isnan() | (logits == torch.inf)).any() and logits.isfinite().any(-1).all():
        why = f"only by the division by temperature = {temperature:g}; raise it"
    elif logits.dtype == torch.float16:
        why = "its numbers are too large for float16; use bfloat16 or float32 (precision, runtime.dtype)"
    else:
        why = "its weights are finite but so large that its numbers overflow; if this came with training, lower train.learning_rate"
    return UserError(f"{type(model).__name__}: the logits of the next token are not finite, nothing can be sampled: {why}")


def broken_gradient(model: nn.Module, batch: Experience, losses: dict[str, float], *, name: str, half: bool, stepped: bool) -> str:
    """Why a gradient of the policy or the critic, `name`, is not finite, and what to do.

    Args:
        batch: what the losses were computed from.
        losses: losses and other metrics of the step.
        half: the passes computed in float16.
        stepped: the model has been trained before.
    """
    rate = f"lower {'train.learning_rate' if name == 'policy' else 'train.critic.learning_rate'}"
    values = {field.name: value for field in fields(batch) if isinstance(value := getattr(batch, field.name), Tensor)}
    spoilt = [key for key, value in values.items() if not value.isfinite().all()]
    if weight := broken_weight(model):
        return f"the weight {weight} holds NaN or infinity; {rate if stepped else 'use another copy of the model'}"
    if spoilt:
        return f"the {' and '.join(spoilt)} of the responses hold NaN or infinity; look at the reward, and at what computes them"
    scale = "advantages" if name == "policy" else "returns"
    if (largest := float(values[scale].abs().max())) > LARGEST:
        return f"the {scale} reach {largest:.3g}, whose squares overflow; scale the reward down"
    if half:
        return "its numbers are too large for float16; use precision (runtime.dtype) bfloat16 or float32"
    if not stepped:
        return "no step has been taken yet, the model itself overflows on these responses; try another copy or float32"
    return rate


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
