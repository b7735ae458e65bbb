"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): several responses per prompt instead of a critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrpo.algorithms.advantages import group_relative_advantages
from vrpo.config import TrainConfig
from vrpo.data.batch import Experience


class GRPO:
    """Advantages are scores normalised within the responses to one prompt; every token of a response gets the same one.

    Its policy loss is PPO's, averaged over all tokens of the optimiser batch (DAPO's and TRL's default). The other methods
    without a critic differ in `advantages` and in the three class attributes that `vrpo.algorithms.ppo.PPO` explains.
    """

    whiten = False  # already normalised, within the groups
    whole_response = False

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        self.group_size = config.group_size
        self.warmup_rollouts = 0
        self.critic = None

    def advantages(self, scores: Tensor, scored: Tensor) -> Tensor:
        """One advantage per response, float [B]."""
        return group_relative_advantages(scores, self.group_size, scored)

    def estimate(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        """Advantages [B, T]; there are no value targets. Token-level penalties count into the response's score.

        Several rewards of a response are added in float64: in float32, .1 + .2 + .3 and .3 + .2 + .1 would differ, and teach.
        """
        scores = torch.where(experience.response_mask, rewards, 0.0).double().sum(1).to(rewards.dtype)
        return self.advantages(scores, experience.scored)[:, None] * experience.response_mask, None

    def loss_count(self, mask: Tensor, max_new_tokens: int) -> Tensor:
        """What the sum of the policy's losses over an optimiser batch is divided by: its response tokens."""
        return mask.sum()
