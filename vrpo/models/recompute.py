"""Gradient checkpointing of models that stay in evaluation mode, so that dropout acts nowhere."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vrpo.errors import UserError


def recompute_layers(model: Any) -> None:
    """Keep no activations inside the model's layers: a backward pass computes them again. Less memory, the same numbers.

    Hugging Face's own switch acts in training mode alone, and with it dropout, dropped layers and the noise of routers.

    Raises:
        UserError: the model has no layers of that kind.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"train.gradient_checkpointing = true: {type(model).__name__} has no layers that can be recomputed; set it to false"
        )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.forward = partial(_recomputed, layer)


def _recomputed(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(layer).forward, layer, **kwargs)
    return layer._gradient_checkpointing_func(forward, *args) if torch.is_grad_enabled() else forward(*args)
