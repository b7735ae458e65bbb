"""The critics of AsyPPO (arXiv 2510.01656): two of them, which learn from disjoint data; the value is their mean.

L = sum_m E_{D_m}[(V_m(s_t) - R_t)^2], V = (V_1 + V_2) / 2. Where the two disagree, the value is uncertain; `vrpo.algorithms.asyppo` leaves
out the advantages of tokens on which they agree.

As in the paper: two critics, both losses with equal weight, the mean as value. Not as in the paper, which deals the responses to each
prompt out to its critics: here one prompt has one response, so that whole prompts are dealt out. And where the paper has two small
language models, these are two decoders on one backbone, the critic's: what they share learns from all prompts, each decoder from its half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vrpo.config import Probability, Section
from vrpo.critics.base import Critic
from vrpo.critics.ensemble import EnsembleHead
from vrpo.critics.losses import value_loss
from vrpo.critics.semantics import top_ratio_mask
from vrpo.data.batch import Experience, Rollout
from vrpo.data.masking import masked_mean
from vrpo.seeding import derive_seed


@dataclass(frozen=True)
class PairExperience(Experience):
    """With what each critic said, and the tokens that matter to one of them or to the policy.

    Attributes:
        members: float32 [B, T, 2], V_1 and V_2 when the rollout was made.
        first: bool [B, T], the tokens that the first critic learns from; the second learns from the others in `response_mask`.
        informative: bool [B, T], all but the share `masked` of a rollout batch's tokens on which the two agree most.
    """

    members: Tensor | None = None
    first: Tensor | None = None
    informative: Tensor | None = None


def in_first_half(rollout: Rollout) -> Tensor:
    """bool [B]: which of two halves a row's prompt falls into. It depends on the prompt's tokens alone, in any process and run."""
    prompts = [ids[mask].tolist() for ids, mask in zip(rollout.prompts, rollout.prompt_mask, strict=True)]
    return torch.tensor([derive_seed("half", *prompt) % 2 == 0 for prompt in prompts], dtype=torch.bool)


def disagreement(members: Tensor) -> Tensor:
    """|V_1 - V_2| of values [..., 2], twice their standard deviation: [...], in units of reward."""
    return (members[..., 0] - members[..., 1]).abs()


class PairCritic(Critic):
    """L = L_mse of the first critic on its half + L_mse of the second on the other, logged as `mse_first` and `mse_second`.

    Switched on with `methods: [asyppo]`, or without the mask on advantages with `train: {critic: {kind: pair}}` under `methods: [ppo]`.
    """

    Experience = PairExperience

    class Settings(Section):
        masked: Probability = 0.2  # share of tokens whose advantages the method asyppo leaves out (paper: 0.2); of no effect in others

    def head(self) -> dict[str, Any]:
        return super().head() | {"head": EnsembleHead, "members": 2}

    def read_states(self, batch: Experience, hidden: Tensor) -> dict[str, Tensor]:
        """Also `members` [B, T, 2], the values of the two."""
        readings = super().read_states(batch, hidden)
        return readings | {"members": self.model.head(hidden, inputs=readings.get("critic_inputs")).outputs}

    def annotate(self, experience: Experience, readings: dict[str, Tensor]) -> Experience:
        """Deal the prompts out, and rank a whole rollout batch's tokens by disagreement."""
        mask = experience.response_mask
        informative = top_ratio_mask(disagreement(readings["members"]), mask, 1.0 - self.settings.masked)
        return super().annotate(experience, readings | {"first": mask & in_first_half(experience)[:, None], "informative": informative})

    def metrics(self, experience: PairExperience, readings: dict[str, Tensor]) -> dict[str, float]:
        """The mean disagreement of the two, in units of reward."""
        return {"disagreement": masked_mean(disagreement(experience.members), experience.response_mask).item()}

    def loss(self, batch: PairExperience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        found = self.model.head(hidden, inputs=batch.critic_inputs).outputs
        errors = value_loss(found, batch.returns.unsqueeze(-1), batch.members, self.config.clip_range)
        second, others = batch.response_mask & ~batch.first, counts["response_mask"] - counts["first"]
        return {
            "mse_first": masked_mean(errors[..., 0], batch.first, counts["first"]),
            "mse_second": masked_mean(errors[..., 1], second, others),
        }, {}
