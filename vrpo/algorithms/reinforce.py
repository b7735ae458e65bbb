"""REINFORCE (Williams 1992) with the batch's mean return as baseline, under PPO's clipped loss."""

from __future__ import annotations

from torch import Tensor

from vrpo.algorithms.advantages import returns_to_go
from vrpo.algorithms.base import Algorithm
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_centred


class Reinforce(Algorithm):
    """One response per prompt. A_t is the discounted sum of the rewards from token t on, less its mean over the batch's tokens."""

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        mask = experience.response_mask
        return masked_centred(returns_to_go(rewards, mask, self.config.gamma), mask), None
