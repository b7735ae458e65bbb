"""REINFORCE (Williams 1992) with the batch's mean return as baseline, under PPO's clipped loss."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.algorithms.reinforce_pp import ReinforcePP
from vrpo.masking import masked_mean
from vrpo.types import Experience


class Reinforce(ReinforcePP):
    """One response per prompt. A_t is the discounted sum of the rewards from token t on, less its mean over the batch's tokens."""

    whiten = False

    def estimate(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        returns, _ = super().estimate(experience, rewards)
        mask = experience.response_mask
        return torch.where(mask, returns - masked_mean(returns, mask), torch.zeros_like(returns)), None
