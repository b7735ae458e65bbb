"""Regulated PPO: PPO whose critic takes the reward's place as far as it has earned it.

With one reward at the end, its noise reaches the policy through that reward, whatever the values are: A_observed - A_clean is
lambda^(T - t) times the noise. A critic that also knows what a finished response is worth, V_T = E[r | response], takes the noise out where it stands in for the
reward (Romoff et al. 2018, arXiv 1805.03359: reward estimation; arXiv 2508.03058, mechanism 3, stops short of it):

    A = g GAE(r) + (1 - g) GAE(V_T).

g, the gain, is measured while training, never set: see `vrpo.critics.skill`. A critic without skill has g = 1, which is PPO.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vrpo.algorithms.ppo import PPO
from vrpo.config import TrainConfig
from vrpo.critics.bayesian import BayesianCritic, FinishedExperience
from vrpo.critics.skill import Skill
from vrpo.data.masking import last_token
from vrpo.errors import UserError

FORGETTING = 0.97  # of measured skill, an iteration


class Regulated(PPO):
    """PPO with estimated rewards, and a critic that makes them."""

    own_critic = BayesianCritic

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        super().__init__(config, policy, seed)
        if not issubclass(self.critic.Experience, FinishedExperience):
            raise UserError(
                f"train.critic.kind = {config.critic.kind!r}: tells no value of a finished response; with method regulated use bayesian"
            )
        self.memory.skill = self.skill = Skill(FORGETTING)

    @property
    def gain(self) -> float:
        """What is left to the reward."""
        return self.skill.gain

    def advantages(self, experience: FinishedExperience, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """PPO's with `estimated_rewards`; the critic's targets are those of the rewards themselves. A penalty in the reward is known without
        noise: nothing estimates it.
        """
        _, returns = super().advantages(experience, rewards)
        penalty, mask = self.penalty(experience), experience.response_mask
        estimated = estimated_rewards(rewards + penalty, experience.final_values, mask, self.gain) - penalty
        return super().advantages(experience, estimated)[0], returns

    def metrics(self, experience: FinishedExperience) -> dict[str, float]:
        """How far the critic is trusted with this batch, and why (see `Skill`)."""
        skill = self.skill
        return {
            "critic/gain": self.gain,
            "critic/skill": skill.correlation,
            "critic/evidence": skill.evidence,
            "critic/noise": skill.noise,
        }

    def absorb(self, experience: FinishedExperience) -> FinishedExperience:
        """Let the critic learn, and hold what it would say of each response without that response against its reward, before any penalty.

        Returns:
            the experience with `final_values` of that kind.
        """
        rewards = experience.rewards + self.penalty(experience)
        held_out = self.critic.absorb(replace(experience, rewards=rewards))
        last = last_token(experience.response_mask)
        self.skill.update(held_out, rewards[last])
        return replace(experience, final_values=torch.zeros_like(experience.final_values).masked_scatter(last, held_out.float()))


def estimated_rewards(rewards: Tensor, final_values: Tensor, mask: Tensor, gain: float) -> Tensor:
    """g r + (1 - g) V_T in place of the reward on the last token of each response; all [B, T]."""
    return torch.where(last_token(mask), gain * rewards + (1 - gain) * final_values, rewards)
