"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): PPO's loss with the whitened return instead of a critic."""

from __future__ import annotations

from torch import Tensor

from vrpo.algorithms.advantages import returns_to_go
from vrpo.algorithms.base import Algorithm
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_whiten


class ReinforcePP(Algorithm):
    """One response per prompt. A_t is the discounted sum of the rewards from token t on (with `kl_in: reward`, KL penalties among them),
    normalised over the whole batch."""

    normalised = staticmethod(masked_whiten)

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        return returns_to_go(rewards, experience.response_mask, self.config.gamma), None
