"""REINFORCE (Williams 1992) with the batch's mean return as baseline, under PPO's clipped loss."""

from __future__ import annotations

from torch import Tensor

from vrpo.algorithms.reinforce_pp import ReinforcePP
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_centred


class Reinforce(ReinforcePP):
    """One response per prompt. A_t is the discounted sum of the rewards from token t on, less its mean over the batch's tokens."""

    whiten = False

    def estimate(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        returns, _ = super().estimate(experience, rewards)
        return masked_centred(returns, experience.response_mask), None
