"""Dr.GRPO (Liu et al. 2025, arXiv 2503.20783): GRPO without the two divisions that bias it."""

from __future__ import annotations

from torch import Tensor

from vrpo.algorithms.advantages import group_relative_advantages
from vrpo.algorithms.grpo import GRPO


class DrGRPO(GRPO):
    """Scores are centred but not divided by their deviation, which favours prompts that are nearly always or never solved; losses are
    divided by a constant, not by lengths, which favours long wrong responses."""

    def score_advantages(self, scores: Tensor, scored: Tensor) -> Tensor:
        return group_relative_advantages(scores, self.group_size, scored, scale=False)

    def loss_count(self, counts: dict[str, Tensor]) -> Tensor:
        """Scored responses times the longest possible response."""
        return counts["responses"] * counts["max_new_tokens"]
