"""How much of the policy's gradient is right: what a method makes of noisy rewards against the clean exact gradient. Nothing here feeds back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from vrpo.algorithms.advantages import compute_gae
from vrpo.algorithms.base import Algorithm
from vrpo.data.batch import Experience
from vrpo.metrics.critic import cosine
from vrpo.rewards.experience import new_experience, repeats
from vrpo.seeding import derive_seed, stream
from vrpo.training.trainer import Trainer

EXACT_ROLLOUTS = 2048  # behind the exact gradient
# Iterations of the noisy batches. No draw is one of training, which counts from 0, or of the rewards that are checked apart from it (-1, -2).
# Several, because one response with a token that hardly ever comes can be most of a batch's gradient.
STEPS = range(-3, -11, -1)

Success = Callable[[Experience], Tensor]  # chance [B, T] that a response ends right from each state on


def gradient_cosine(trainer: Trainer, success: Success) -> float:
    """Cosine of the gradient that the next step would take with the clean exact one, mean over fresh batches.

    Both sides are sampled anew from the policy as it is. The trainer learns and counts nothing from it but seconds. A batch whose
    gradient is zero, as of equal rewards, points nowhere and is left out; NaN where all are.

    Args:
        trainer: with a clean reward that is the chance's 0 or 1 at the end of each response.
        success: knows the task's values.
    """
    exact = exact_gradient(trainer, success)
    cosines = [cosine(trainer.updater.policy_gradient(noisy_experience(trainer, place)), exact) for place in range(len(STEPS))]
    return float(torch.tensor(cosines, dtype=torch.float64).nanmean())


def noisy_experience(trainer: Trainer, place: int) -> Experience:
    """A fresh batch of an iteration's size, with observed rewards and the method's advantages; `place` is its place in `STEPS`."""
    count = trainer.prompts_per_iteration
    prompts = stream(trainer.problems, place * count, count, trainer.seed, "noisy gradient")
    rows = [row for row in prompts for _ in range(trainer.algorithm.group_size)]
    return trainer.collect(rows, repeats(rows), STEPS[place])[0]


def exact_gradient(trainer: Trainer, success: Success) -> Tensor:
    """The policy's gradient, float32 [N], from `EXACT_ROLLOUTS` fresh responses, clean rewards and exact values.

    A_t = V*(s_{t+1}) - V*(s_t), where V* is the chance of success and, after the last token, the clean reward. These advantages are a
    token's own, so the loss is the plain one, token by token, also for a method that has another.
    """
    rows = stream(trainer.problems, 0, EXACT_ROLLOUTS, trainer.seed, "exact gradient")
    rollout = trainer.sample(rows, derive_seed(trainer.seed, "exact gradient"))
    clean = trainer.collector.score(trainer.clean_reward, rows, rollout, STEPS[0], repeats(rows))
    experience = new_experience(rollout, clean)
    advantages = compute_gae(experience.rewards, success(experience), experience.response_mask, lam=0.0)
    updater = copy.copy(trainer.updater)
    updater.algorithm = Algorithm(trainer.config, trainer.policy, trainer.seed)
    return updater.policy_gradient(replace(experience, advantages=advantages))
