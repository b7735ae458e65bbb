"""Proximal policy optimisation (Schulman et al. 2017) for token-level decisions, with a plain value model."""

from __future__ import annotations

import torch
from torch import Tensor

from vrpo.algorithms.advantages import compute_gae, length_adaptive_lambda
from vrpo.algorithms.base import Algorithm
from vrpo.critics.plain import PlainCritic
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_whiten


class PPO(Algorithm):
    """Advantages from GAE over a learned value model, normalised over the batch; one response per prompt."""

    own_critic = PlainCritic
    normalised = staticmethod(masked_whiten)

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
