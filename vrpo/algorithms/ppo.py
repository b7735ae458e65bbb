"""Proximal policy optimisation (Schulman et al. 2017) for token-level decisions, with a plain value model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vrpo.algorithms.advantages import compute_gae, length_adaptive_lambda
from vrpo.algorithms.base import Algorithm
from vrpo.config import TrainConfig
from vrpo.critics.losses import value_loss
from vrpo.critics.value_model import ValueModel
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean, masked_whiten


class PPO(Algorithm):
    """Advantages from GAE over a learned value model; one response per prompt.

    The trainer asks for what the critic says about a rollout (`read`, `annotate`) and for the terms of the value loss (`value_terms`).
    """

    normalised = staticmethod(masked_whiten)

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        super().__init__(config, policy, seed)
        self.warmup_rollouts = config.critic.warmup_rollouts
        self.critic: ValueModel | None = self.build_critic(policy, seed)

    def build_critic(self, policy: nn.Module, seed: int) -> ValueModel:
        """A value head without bottleneck on the policy's backbone or a copy of it."""
        config = self.config.critic
        options = {"shared": config.backbone == "shared", "surprisal_inputs": config.surprisal_inputs}
        return ValueModel.from_policy(policy, depth=0, latent_size=1, seed=seed, **options)

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's advantages use `gae_lambda`, or with `length_adaptive_alpha` a lambda for each response; the targets R_t = A_t + V_t
        use the critic's own lambda (VC-PPO, arXiv 2503.01491), 1 by default: the undiscounted return, whatever the values were.
        """
        values, mask = experience.values, experience.response_mask
        alpha = self.config.length_adaptive_alpha
        lam = self.config.gae_lambda if alpha is None else length_adaptive_lambda(mask, alpha)
        advantages = compute_gae(rewards, values, mask, self.config.gamma, lam)
        returns = compute_gae(rewards, values, mask, self.config.gamma, self.config.critic.gae_lambda) + values
        return advantages, torch.where(mask, returns, torch.zeros_like(returns))

    def read(self, batch: Experience, hidden: Tensor) -> dict[str, Tensor]:
        """Per-token readings of the critic, [B, T] each, from its states `hidden` [B, T, H]. PPO: the values, and the head's inputs."""
        inputs = self.critic.inputs(batch)
        return {"values": self.critic.head(hidden, inputs=inputs).values} | ({} if inputs is None else {"critic_inputs": inputs})

    def annotate(self, experience: Experience, readings: dict[str, Tensor]) -> Experience:
        """Add the readings of a whole rollout batch to it."""
        return replace(experience, values=readings["values"], critic_inputs=readings.get("critic_inputs"))

    def value_terms(self, batch: Experience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Terms of the value loss, whose sum is minimised, and further metrics. PPO: L_mse = mean_t (V_t - R_t)^2.

        Args:
            batch: a micro-batch.
            hidden: float [B, T, H], the critic's states, with gradient.
            counts: True positions of each mask in the whole optimiser batch, by mask name.
        """
        return {"mse": self._mse(batch, self.critic.head(hidden, inputs=batch.critic_inputs).values, counts)}, {}

    def _mse(self, batch: Experience, values: Tensor, counts: dict[str, Tensor]) -> Tensor:
        errors = value_loss(values, batch.returns, batch.values, self.config.critic.clip_range)
        return masked_mean(errors, batch.response_mask, counts["response_mask"])
