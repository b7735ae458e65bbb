"""A critic that learns in closed form: Bayesian linear heads on what the frozen cold start says about a response.

Beside the value before each token, V_t, it says what a finished response is worth, V_T = E[r | response], which no reward has told yet. Nothing of it
is trained by gradients, and a rollout never scores itself: it is absorbed after the policy's step (`absorb`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vrpo.config import CriticConfig, Probability, Section
from vrpo.critics.base import Critic
from vrpo.critics.regression import Regression
from vrpo.critics.value_model import ValueModel, ValueOutput
from vrpo.data.batch import Experience, Rollout
from vrpo.data.masking import last_token
from vrpo.errors import UserError
from vrpo.models.states import backbone_of


@dataclass(frozen=True)
class FinishedExperience(Experience):
    """With what the finished responses look like and are worth: like rewards, on the last response token, and 0 elsewhere.

    Attributes:
        final_inputs: float32 [B, T, F], the head's inputs after that token.
        final_values: float32 [B, T], V_T when the rollout was made.
    """

    final_inputs: Tensor | None = None
    final_values: Tensor | None = None


class BayesianSettings(Section):
    """`train.critic.settings` of the Bayesian critic."""

    inputs: Literal["surprisal", "states", "both"] = "surprisal"  # four numbers on surprise, the cold start's last states, or all of them
    # Standard deviations of reward that one of the inputs, or the states together, is expected to explain; outside the bounds the posterior
    # is singular in float64.
    prior: Annotated[float, Field(ge=1e-3, le=1e3)] = 0.2
    forgetting: Probability = 0.97  # factor on what all earlier iterations count


class BayesianHead(nn.Module):
    """One regression for states before a token, another for finished responses.

    Args:
        hidden_size: H of the backbone's states.
        inputs: F, numbers beside the states, of which surprise is made; they count where there are some.
        states: whether the states count at all.
        prior, forgetting: see `Regression`; the states together get the prior variance of one input.
    """

    def __init__(
        self, hidden_size: int, inputs: int = 0, *, states: bool, prior: float, forgetting: float, depth: int, latent_size: int
    ) -> None:
        super().__init__()
        self.states = states
        sizes = [prior] * inputs + [prior * hidden_size**-0.5] * (hidden_size * states)
        self.before, self.finished = Regression(sizes, forgetting), Regression(sizes, forgetting)

    def features(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        """What regressions see of states [B, T, H] and inputs [B, T, F]: [B, T, F], [B, T, F + H] or [B, T, H]."""
        parts = [inputs] * (inputs is not None) + [hidden.float()] * self.states
        return torch.cat(parts, dim=-1)

    def forward(self, hidden: Tensor, noise: Tensor | None = None, inputs: Tensor | None = None) -> ValueOutput:
        """See `ValueHead.forward`; there is no bottleneck, and noise is not used."""
        values = self.before(self.features(hidden, inputs))
        return ValueOutput(values, torch.zeros_like(values), None, values.unsqueeze(-1))


class BayesianCritic(Critic):
    """See `BayesianSettings`. What `CriticConfig` says of gradients (`learning_rate`, `epochs`, `warmup_epochs`, `clip_range`, `loss_weight`) and
    of the bottleneck means nothing to it.

    Raises:
        UserError: settings that contradict it or each other.
    """

    Settings = BayesianSettings
    Experience = FinishedExperience

    def __init__(self, config: CriticConfig, policy: nn.Module, seed: int) -> None:
        if config.backbone == "shared":
            raise UserError("train.critic.backbone = 'shared': the bayesian critic reads the frozen cold start; use separate")
        super().__init__(config, policy, seed)
        if config.surprisal_inputs and not self.surprisal_inputs:
            raise UserError(
                "train.critic.surprisal_inputs = True: the bayesian critic's inputs are train.critic.settings.inputs = 'states', without "
                "surprise; use both"
            )
        self.model.requires_grad_(False)
        if self.model.reader is not None:  # one frozen copy says both, also where there is none to share
            self.model.backbone = backbone_of(self.model.reader)

    @property
    def surprisal_inputs(self) -> bool:
        return self.settings.inputs != "states"

    def head(self) -> dict[str, Any]:
        settings = self.settings
        own = {"states": settings.inputs != "surprisal", "prior": settings.prior, "forgetting": settings.forgetting}
        return super().head() | {"head": BayesianHead} | own

    def share(self, cold_start: nn.Module) -> None:
        super().share(cold_start)
        self.model.backbone = backbone_of(cold_start)

    def read(self, batch: Experience) -> dict[str, Tensor]:
        """Also `final_inputs` and `final_values` of each response."""
        features, final, final_values = finished(self.model, batch)
        return {
            "values": self.model.head.before(features[:, :-1]),
            "critic_inputs": features[:, :-1],
            "final_inputs": final,
            "final_values": final_values,
        }

    def absorb(self, experience: FinishedExperience) -> Tensor:
        """Learn from a rollout batch: states before a token from the returns, all of a response's together as one observation, and finished
        responses from the reward on their last token.

        Returns:
            float64 [N], what each scored response's last reward would be predicted to be without that response.
        """
        head, mask, last = self.model.head, experience.response_mask, last_token(experience.response_mask)
        device = head.before.weights.device
        counts = (mask / mask.sum(1, keepdim=True).clamp(min=1))[mask]
        head.before.absorb(*(part.to(device) for part in (experience.critic_inputs[mask], experience.returns[mask], counts)))
        inputs, rewards = experience.final_inputs[last].to(device), experience.rewards[last].to(device)
        head.finished.absorb(inputs, rewards, torch.ones_like(rewards))
        return head.finished.held_out(inputs, rewards).cpu()


def finished(model: ValueModel, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """What the head of a value model sees before each token and after the last column, [B, T + 1, F]; the latter after each response, and what it
    says of it, on the last response token and 0 elsewhere, [B, T, F] and [B, T]."""
    last = last_token(rollout.response_mask)
    features = model.head.features(*model.observe(rollout))
    final = features[:, 1:] * last[..., None]
    return features, final, model.head.finished(final) * last
