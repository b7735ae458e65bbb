"""Advantage estimators. All tensors are [B, T], masks bool; T may hold gaps (dialogue turns of the user)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.data.masking import unit_range


def discounted_sums(values: Tensor, decay: Tensor) -> Tensor:
    """S_t = values_t + decay_t * S_{t+1} along the last dimension, with S = 0 after the end; both [B, T].

    Solved by doubling: log2(T) steps over the whole batch instead of T.
    """
    step = 1
    while step < values.shape[1]:
        values = values + decay * F.pad(values[:, step:], (0, step))
        decay = decay * F.pad(decay[:, step:], (0, step))
        step *= 2
    return values


def compute_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float | Tensor = 0.95) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) over the True positions of each row.

    A_t = delta_t + gamma * lam * A_{t+},  delta_t = r_t + gamma * V_{t+} - V_t, where t+ is the next True position and
    V, A are 0 after the last one (responses are terminal). Masked positions are skipped as if they did not exist:
    they neither bootstrap nor decay, and whatever they hold does not matter.

    Args:
        rewards, values: float [B, T]; values[:, t] is V(s_t), the state before token t.
        mask: bool [B, T].
        gamma: discount.
        lam: trace decay, one for all rows or a tensor [B] (see `length_adaptive_lambda`).

    Returns:
        advantages float [B, T], 0 where masked.
    """
    width = mask.shape[1]
    zeros = torch.zeros_like(values)
    positions = torch.where(mask, torch.arange(width, device=mask.device), width)
    following = F.pad(positions.flip(1).cummin(1).values.flip(1)[:, 1:], (0, 1), value=width)  # the next True position, or `width`
    known = torch.where(mask, values, zeros)
    next_values = F.pad(known, (0, 1)).gather(1, following)
    deltas = torch.where(mask, rewards + gamma * next_values - values, zeros)
    trace = gamma * (lam[:, None] if isinstance(lam, Tensor) else lam)
    return torch.where(mask, discounted_sums(deltas, torch.where(mask, trace, torch.ones_like(values))), zeros)


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """G_t = r_t + gamma * G_{t+}, what is still to be earned from each token on; arguments and masking as `compute_gae`, [B, T]."""
    return compute_gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)


def length_adaptive_lambda(mask: Tensor, alpha: float) -> Tensor:
    """lambda = 1 - 1 / (alpha * length) of each response (VAPO, arXiv 2504.05118, eq. 9), not below 0; float32 [B] from a mask [B, T].

    The traces of long responses reach back to their start; short ones rely on the critic.
    """
    return (1 - 1 / (alpha * mask.sum(1).clamp(min=1))).clamp(min=0.0)


def _grouped(scores: Tensor, group_size: int, scored: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores within their group's `unit_range` and its spread, the mask of scored ones, and their number: [B / G, G] or [B / G, 1] each."""
    if group_size < 2 or scores.shape[0] % group_size:
        raise ValueError(f"group_size = {group_size} must be at least 2 and divide the number of responses ({scores.shape[0]})")
    grouped = scores.view(-1, group_size)
    valid = torch.ones_like(grouped, dtype=torch.bool) if scored is None else scored.view(-1, group_size)
    return *unit_range(grouped, valid, dim=1), valid, valid.sum(1, keepdim=True)


def group_relative_advantages(
    scores: Tensor, group_size: int, scored: Tensor | None = None, scale: bool = True, eps: float = 1e-6
) -> Tensor:
    """GRPO's advantages (Shao et al. 2024): the score, centred and divided by the standard deviation within its group.

    A group whose scores are all equal has no signal and gets zeros; with `scale` the scores' offset and unit do not matter (`eps` counts
    in the group's spread).

    Args:
        scores: float [B], one per response; rows of one prompt stand next to each other.
        group_size: responses per prompt, at least 2.
        scored: bool [B]; rows that could not be scored count in no statistic and get 0.
        scale: divide by the standard deviation; False: Dr.GRPO (arXiv 2503.20783), which only centres.

    Returns:
        float [B].

    Raises:
        ValueError: B is not a multiple of `group_size`, or `group_size` is below 2.
    """
    unit, spread, valid, count = _grouped(scores, group_size, scored)
    centred = torch.where(valid, unit - unit.sum(1, keepdim=True) / count.clamp(min=1), torch.zeros_like(unit))
    if not scale:
        return (centred * spread).view(-1)
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return (centred / (std + eps)).view(-1)


def leave_one_out_advantages(scores: Tensor, group_size: int, scored: Tensor | None = None) -> Tensor:
    """RLOO's advantages (Ahmadian et al. 2024, arXiv 2402.14740): the score minus the mean of the group's *other* scores.

    Arguments, result and errors as `group_relative_advantages`. A response that is the only scored one of its group gets 0.
    """
    unit, spread, valid, count = _grouped(scores, group_size, scored)
    others = (unit.sum(1, keepdim=True) - unit) / (count - 1).clamp(min=1)
    return (torch.where(valid & (count > 1), unit - others, torch.zeros_like(unit)) * spread).view(-1)
