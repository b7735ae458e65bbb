"""Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): several responses per prompt instead of a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.algorithms.advantages import group_relative_advantages
from vrpo.algorithms.base import Algorithm
from vrpo.data.batch import Experience


class GRPO(Algorithm):
    """Advantages are scores normalised within the responses to one prompt; every token of a response gets the same one."""

    grouped = True

    def score_advantages(self, scores: Tensor, scored: Tensor) -> Tensor:
        """One advantage per response, float [B]."""
        return group_relative_advantages(scores, self.group_size, scored)

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        """Token-level penalties count into the response's score.

        Several rewards of a response are added in float64: in float32, .1 + .2 + .3 and .3 + .2 + .1 would differ, and teach.
        """
        scores = torch.where(experience.response_mask, rewards, 0.0).double().sum(1).to(rewards.dtype)
        return self.score_advantages(scores, experience.scored)[:, None] * experience.response_mask, None
