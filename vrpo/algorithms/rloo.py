"""REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): a whole response is one action."""

from __future__ import annotations

from torch import Tensor

from vrpo.algorithms.advantages import leave_one_out_advantages
from vrpo.algorithms.grpo import GRPO
from vrpo.algorithms.losses import clipped, importance_weights, policy_loss
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean


class RLOO(GRPO):
    """The baseline of a response is the mean score of the others to its prompt."""

    def score_advantages(self, scores: Tensor, scored: Tensor) -> Tensor:
        return leave_one_out_advantages(scores, self.group_size, scored)

    def importance_weights(self, batch: Experience) -> Tensor:
        own, sampled = (part.sum(1, keepdim=True) for part in (batch.logprobs, batch.sampled_logprobs))
        return importance_weights(own, sampled, self.config.importance_cap)

    def policy_loss(self, batch: Experience, logprobs: Tensor, counts: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """PPO's surrogate with ratio and clip of whole responses, averaged over the scored ones."""
        mask, (new, old) = batch.response_mask, (part.sum(1, keepdim=True) for part in (logprobs, batch.logprobs))
        sides = new, old, batch.advantages[:, :1], self.config.clip_range
        clip = masked_mean(clipped(*sides).float().expand_as(mask), mask, counts["response_mask"])
        return masked_mean(policy_loss(*sides), mask.any(1, keepdim=True), counts["responses"]), {"clip_fraction": clip.item()}
