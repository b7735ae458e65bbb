"""Advantage estimators. All tensors are [B, T], masks bool; T may hold gaps (dialogue turns of the user)."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) over the True positions of each row.

    A_t = delta_t + gamma * lam * A_{t+},  delta_t = r_t + gamma * V_{t+} - V_t, where t+ is the next True position and
    V, A are 0 after the last one (responses are terminal). Masked positions are skipped as if they did not exist:
    they neither bootstrap nor decay, and whatever they hold does not matter.

    Args:
        rewards, values: float [B, T]; values[:, t] is V(s_t), the state before token t.
        mask: bool [B, T].
        gamma, lam: discount and trace decay.

    Returns:
        advantages float [B, T], 0 where masked.
    """
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(here, advantage, torch.zeros_like(advantage))
        next_value = torch.where(here, values[:, t], next_value)
        next_advantage = torch.where(here, advantage, next_advantage)
    return advantages


def group_relative_advantages(scores: Tensor, group_size: int, scored: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """GRPO's advantages (Shao et al. 2024): the score, centred and divided by the standard deviation within its group.

    A group whose scores are all equal has no signal and gets zeros.

    Args:
        scores: float [B], one per response; rows of one prompt stand next to each other.
        group_size: responses per prompt, at least 2.
        scored: bool [B]; rows that could not be scored count in no statistic and get 0.

    Returns:
        float [B].

    Raises:
        ValueError: B is not a multiple of `group_size`, or `group_size` is below 2.
    """
    if group_size < 2 or scores.shape[0] % group_size:
        raise ValueError(f"group_size = {group_size} must be at least 2 and divide the number of responses ({scores.shape[0]})")
    grouped = scores.view(-1, group_size)
    valid = torch.ones_like(grouped, dtype=torch.bool) if scored is None else scored.view(-1, group_size)
    clean = torch.where(valid, grouped, torch.zeros_like(grouped))
    count = valid.sum(1, keepdim=True)
    centred = torch.where(valid, clean - clean.sum(1, keepdim=True) / count.clamp(min=1), torch.zeros_like(clean))
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return torch.where(std > eps, centred / (std + eps), torch.zeros_like(centred)).view(-1)
