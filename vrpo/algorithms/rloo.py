"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): a whole response is one action."""

from __future__ import annotations

from torch import Tensor

from vrpo.algorithms.advantages import leave_one_out_advantages
from vrpo.algorithms.grpo import GRPO


class RLOO(GRPO):
    """The baseline of a response is the mean score of the others to its prompt; ratio and clip are those of the whole response."""

    whole_response = True

    def advantages(self, scores: Tensor, scored: Tensor) -> Tensor:
        return leave_one_out_advantages(scores, self.group_size, scored)

    def loss_count(self, mask: Tensor, max_new_tokens: int) -> Tensor:
        """Scored responses."""
        return mask.any(1).sum()
