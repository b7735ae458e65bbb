"""Is the critic alive? Numbers computed beside training; nothing here feeds back into it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vrpo.algorithms.advantages import returns_to_go
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_centred, masked_mean, masked_var


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over True positions: 1 perfect, 0 no better than a constant. NaN where returns do not vary."""
    variance = masked_var(returns, mask)
    return float(1 - masked_var(returns - values, mask) / variance) if variance > 0 else math.nan


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two [N] tensors, NaN where one of them is zero."""
    a, b = a.double(), b.double()
    norm = a.norm() * b.norm()
    return float(a @ b / norm) if norm > 0 else math.nan


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two [N] tensors, NaN where one of them is constant."""
    return cosine(*(masked_centred(x.double(), torch.ones_like(x, dtype=torch.bool)) for x in (a, b)))


def critic_metrics(experience: Experience, rewards: dict[str, Tensor], gamma: float) -> dict[str, float]:
    """Fit of the rollout's values to what they predict: the returns from each token on, of each of the `rewards` [B, T] by name."""
    mask = experience.response_mask
    metrics = {}
    for name, earned in rewards.items():
        returns = returns_to_go(earned, mask, gamma)
        metrics[f"critic/ev_{name}"] = explained_variance(experience.values, returns, mask)
        metrics[f"critic/mse_{name}"] = float(masked_mean((experience.values - returns) ** 2, mask))
    return metrics
