"""Per-token losses of critics: [B, T] or [B, T, Z] in, [B, T] out. The trainer averages them over the whole optimiser batch."""

from __future__ import annotations

import torch
from torch import Tensor


def value_loss(values: Tensor, returns: Tensor, old_values: Tensor | None = None, clip_range: float | None = None) -> Tensor:
    """Squared error (V_t - R_t)^2; with `clip_range`, the larger of it and the error of V clipped around `old_values`."""
    loss = (values - returns).square()
    if clip_range is None:
        return loss
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return torch.maximum(loss, (near - returns).square())


def gaussian_kl(mu: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) per token: 1/2 sum_j (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2).

    The sum runs over latent dimensions *before* any average: mu = (5, -5), sigma = 1 costs 25.

    Args:
        mu, log_variance: float [..., Z].

    Returns:
        float [...], in nats.
    """
    return 0.5 * (mu.square() + log_variance.exp() - 1.0 - log_variance).sum(-1)
