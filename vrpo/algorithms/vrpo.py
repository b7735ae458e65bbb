"""VRPO (arXiv 2508.03058) as a difference from PPO: the policy update is the same, the value model absorbs the noise."""

from __future__ import annotations

from vrpo.algorithms.ppo import PPO
from vrpo.critics.variational import VariationalCritic


class VRPO(PPO):
    """PPO with the paper's critic."""

    own_critic = VariationalCritic
