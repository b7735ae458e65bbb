"""PF-PPO (Zhang et al. 2024, arXiv 2409.06957) as a difference from PPO: of the responses to a prompt only the best and the worst teach."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.algorithms.ppo import PPO
from vrpo.data.batch import Experience


class PFPPO(PPO):
    """Policy filtration in its best-worst variant (BW): a reward model is most reliable where its rewards are highest and lowest.

    The paper's: `train.group_size` responses to each prompt are ranked by reward, PPO trains on the first and the last; the critic learns
    from what the policy learns from (the authors' code has one batch for both), so it values the filtered policy, which the batch was drawn
    from. All that is sampled counts as rollouts.

    Chosen here: the two are taken once each, where the paper draws with weights (1/2, 0 ... 0, 1/2) and replacement, so a run needs no more
    randomness; BW alone, not best-random (BR); advantages are normalised over the responses that are kept, where the authors' code does so
    before it filters; with `kl_in: reward` ranks count the penalties too; the value warm-up, one response a prompt, is not filtered.
    """

    grouped = True

    def filtered(self, experience: Experience) -> Experience:
        """Two responses of each group; one, or none, where no more are scored. Rewards of several tokens are added as in GRPO."""
        scores = torch.where(experience.response_mask, experience.rewards, 0.0).double().sum(1).to(experience.rewards.dtype)
        return experience[best_and_worst(scores, self.group_size, experience.scored)]


def best_and_worst(scores: Tensor, group_size: int, scored: Tensor) -> Tensor:
    """The first and the last response of each group, ranked by score. Equal ones rank as they were sampled, so of a group without any
    difference two are kept as well.

    Args:
        scores: float [B], finite, one per response; rows of one prompt stand next to each other.
        group_size: responses per prompt; divides B.
        scored: bool [B]; the others have no rank and are not kept.

    Returns:
        bool [B], True where kept.
    """
    known = scored.view(-1, group_size)
    order = torch.where(known, scores.view(-1, group_size), -torch.inf).argsort(dim=1, descending=True, stable=True)  # unscored ones last
    worst = order.gather(1, (known.sum(1, keepdim=True) - 1).clamp(min=0))
    kept = torch.zeros_like(known).scatter(1, torch.cat([order[:, :1], worst], dim=1), True)
    return (kept & known).view(-1)
