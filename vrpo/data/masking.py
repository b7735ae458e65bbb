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


def unit_range(values: Tensor, mask: Tensor, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """Values moved and stretched to 0 ... 1 over the True positions, along `dim` or all over, and their spread (largest less smallest).

    Statistics of these lose no digits to an offset or a scale, and equal values are exactly 0 with spread 0, whatever their size; a mean
    in float32 of sixteen times 12.3 is not 12.3. What is masked, or has nothing beside it, becomes 0.
    """
    wide = values.detach().double()
    dims = {"dim": tuple(range(values.ndim)) if dim is None else dim, "keepdim": True}
    low, high = torch.where(mask, wide, torch.inf).amin(**dims), torch.where(mask, wide, -torch.inf).amax(**dims)
    spread = (high - low).clamp(min=0.0)
    unit = torch.where(mask & (spread != 0), (wide - low) / spread, 0.0)  # NaN stays NaN
    return unit.to(values.dtype), spread.to(values.dtype)


def masked_centred(values: Tensor, mask: Tensor) -> Tensor:
    """Values less their mean over the True positions; 0 where masked, and exactly 0 where all are equal."""
    unit, spread = unit_range(values, mask)
    return torch.where(mask, (unit - masked_mean(unit, mask)) * spread, torch.zeros_like(values))


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Population variance of `values` where `mask` is True, exactly 0 where they are equal."""
    return masked_mean(masked_centred(values, mask).square(), mask)


def masked_whiten(values: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the True positions; masked positions, and values that are all equal, become 0.

    `eps` counts in squares of the values' spread, so that their scale does not matter.
    """
    unit, _ = unit_range(values, mask)
    centred = unit - masked_mean(unit, mask)
    return torch.where(mask, centred * torch.rsqrt(masked_mean(centred.square(), mask) + eps), torch.zeros_like(values))


def last_token(mask: Tensor) -> Tensor:
    """bool [B, T]: the last True position of each row of `mask` [B, T]; none in a row without one."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return mask & (positions == torch.where(mask, positions, -1).amax(1, keepdim=True))
