"""What the trainer asks of a critic. The critic `x` is the `Critic` that `vrpo/critics/x.py` defines."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from vrpo.config import CriticConfig, Section
from vrpo.critics.losses import value_loss
from vrpo.critics.value_model import ValueModel
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean
from vrpo.errors import UserError


class Critic:
    """A value model and how it learns.

    Args:
        config: `train.critic`.
        policy: the SFT model, from which the value model starts.
        seed: draws the value model's head.

    Attributes:
        Settings: the form of `train.critic.settings`; by default there are none.
        Experience: what a rollout is to this critic; its readings of these fields' names are kept for the losses (see `annotate`).
        model: the value model; what of it asks for a gradient is trained.

    Raises:
        UserError: settings that it does not have.
    """

    Settings: type[Section] = Section
    Experience: type[Experience] = Experience

    def __init__(self, config: CriticConfig, policy: nn.Module, seed: int) -> None:
        self.config = config
        try:
            self.settings: Any = self.Settings.model_validate(config.settings or {})
        except ValidationError as error:
            issue = error.errors()[0]
            raise UserError(f"train.critic.settings.{'.'.join(map(str, issue['loc']))}: {issue['msg']}") from None
        options = {"shared": config.backbone == "shared", "surprisal_inputs": self.surprisal_inputs}
        self.model = ValueModel.from_policy(policy, seed=seed, **options, **self.head())

    @property
    def surprisal_inputs(self) -> bool:
        """Whether the head sees how surprised the cold start is (see `vrpo.critics.surprisal`)."""
        return self.config.surprisal_inputs

    def head(self) -> dict[str, Any]:
        """Class and sizes of the value model's head, arguments of `ValueModel`; by default one number without a bottleneck."""
        return {"depth": 0, "latent_size": 1}

    def share(self, cold_start: nn.Module) -> None:
        """Take what is frozen from this frozen copy of the policy instead of keeping another."""
        if self.model.reader is not None:
            self.model.reader = cold_start

    def read(self, batch: Experience) -> dict[str, Tensor]:
        """What it says about the tokens of a fresh rollout, [B, T, ...] each by name: `values`, `critic_inputs` where the head has inputs,
        `latent_kl` [B, T, Z] where it has a bottleneck."""
        return self.read_states(batch, self.model.states(batch))

    def read_states(self, batch: Experience, hidden: Tensor) -> dict[str, Tensor]:
        """`read`, from the rollout's states `hidden` [B, T, H]."""
        inputs = self.model.inputs(batch)
        output = self.model.head(hidden, inputs=inputs)
        readings = {"values": output.values, "critic_inputs": inputs, "latent_kl": output.kl_per_dimension}
        return {name: reading for name, reading in readings.items() if reading is not None}

    def annotate(self, experience: Experience, readings: dict[str, Tensor]) -> Experience:
        """A whole rollout batch with the readings that losses need."""
        kept = {field.name: readings[field.name] for field in fields(self.Experience) if field.name in readings}
        return self.Experience(**vars(experience) | kept)

    def metrics(self, experience: Experience, readings: dict[str, Tensor]) -> dict[str, float]:
        """Numbers of its own about an annotated rollout batch, logged as `critic/<name>`."""
        return {}

    def noise(self, experience: Experience, *key: object) -> Tensor | None:
        """The head's random draws [B, T, ...] for one pass over an experience, from `key` alone; None where it needs none.

        They are drawn for a whole optimiser batch, so that a micro-batch split changes nothing, and come back as `latent_noise`.
        """
        return None

    def loss(self, batch: Experience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Terms whose sum is minimised, and further metrics, both logged as `critic/<name>`: a micro-batch's share of them.

        Args:
            batch: an annotated micro-batch with `returns`, the targets.
            hidden: float [B, T, H], the critic's states, with gradient.
            counts: True positions of each mask in the whole optimiser batch, by its name.
        """
        raise NotImplementedError

    def absorb(self, experience: Experience) -> Any:
        """Learn from a whole annotated rollout batch with `returns`, once, after the policy's step; by default nothing, gradients do it all."""

    def squared_error(self, batch: Experience, values: Tensor, counts: dict[str, Tensor]) -> Tensor:
        """L_mse = mean_t (V_t - R_t)^2 of values [B, T], clipped around the rollout's with `critic.clip_range`; a micro-batch's share."""
        errors = value_loss(values, batch.returns, batch.values, self.config.clip_range)
        return masked_mean(errors, batch.response_mask, counts["response_mask"])
