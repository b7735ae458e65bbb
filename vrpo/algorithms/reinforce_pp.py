"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): PPO's loss with the whitened return instead of a critic."""

from __future__ import annotations

from torch import Tensor, nn

from vrpo.algorithms.advantages import returns_to_go
from vrpo.algorithms.grpo import GRPO
from vrpo.config import TrainConfig
from vrpo.data.batch import Experience


class ReinforcePP(GRPO):
    """One response per prompt. A_t is the discounted sum of the rewards from token t on (with `kl_in: reward`, KL penalties among them),
    normalised over the whole batch."""

    whiten = True

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        super().__init__(config, policy, seed)
        self.group_size, self.gamma = 1, config.gamma

    def estimate(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        """Returns [B, T]; there are no value targets."""
        return returns_to_go(rewards, experience.response_mask, self.gamma), None
