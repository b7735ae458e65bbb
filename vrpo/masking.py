"""Masked statistics. A masked position may hold anything, NaN included, and never leaks into a result."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask` is True. Both [...]; returns a scalar."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device)).sum()


def masked_mean(values: Tensor, mask: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Mean of `values` where `mask` is True (0 where nothing is).

    Args:
        values, mask: [...], mask bool.
        count: divisor; by default the number of True positions. A micro-batch passes the count of its whole optimiser
            batch, so that the micro-batches' means add up to the batch's mean whatever the split.
    """
    count = mask.sum() if count is None else torch.as_tensor(count, device=values.device)
    return masked_sum(values, mask) / count.clamp(min=1)


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Population variance of `values` where `mask` is True."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def masked_whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the True positions; masked positions become 0."""
    centred = values - masked_mean(values, mask)
    return torch.where(mask, centred * torch.rsqrt(masked_var(values, mask) + eps), torch.zeros_like(values))
