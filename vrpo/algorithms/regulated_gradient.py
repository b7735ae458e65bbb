"""The regulated critic with a gain that is measured where it acts: in the policy's gradient.

What the critic leaves of the reward, r - V_T, is noise and what the critic gets wrong. Its policy gradient G_e = E[(r - V_T) grad log pi] tells
them apart: noise pushes every response its own way and averages out, a systematic error (an answer that the cold start likes and rewards do not)
pushes many the same way. `regulated` takes no notice of such errors once its critic has skill; here the residual's gradient is kept as far as it is more
than chance,

    g = |G_e|^2 / (|G_e|^2 + v / N),

with v / N the variance of its mean over a batch of N responses: the factor that brings g G_e closest to the true G_e in squared error
(James and Stein 1961, with the noise measured). A critic that misses nothing has g = 0, whatever the noise; one without skill the
signal-to-noise share of the reward's own gradient, which whitening makes REINFORCE with lambda 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from vrpo.algorithms.regulated import Regulated
from vrpo.config import TrainConfig
from vrpo.critics.bayesian import FinishedExperience
from vrpo.data.batch import Experience
from vrpo.data.masking import last_token, masked_centred

BLOCKS = 8  # of a batch, whose gradients are compared
FORGETTING = 0.9  # of what was measured, an iteration: policy and critic move
MOST = 10  # batches that a single one, the value warm-up, may count as


class RegulatedGradient(Regulated):
    """`regulated`, but for the gain."""

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        super().__init__(config, policy, seed)
        self.batch = (config.rollouts - self.warmup_rollouts) // config.iterations
        self.memory.register_buffer("residual", torch.zeros(3, dtype=torch.float64))  # sums of weights, |G_e|^2, and v, weighted

    @property
    def gain(self) -> float:
        """1 before anything was measured."""
        weight, signal, noise = self.memory.residual.tolist()
        return shrinkage(signal / weight, noise / weight / self.batch) if weight else 1.0

    def observe(self, experience: FinishedExperience, policy_gradient: Callable[[Experience], Tensor]) -> None:
        """Measure the residual's gradient on a batch that the critic has not learned from."""
        mask = experience.response_mask
        last = last_token(mask)
        rewards = experience.rewards + self.penalty(experience)
        residual = (masked_centred(rewards - experience.final_values, last) * last).sum(1, keepdim=True) * mask
        blocks = torch.arange(len(experience)).tensor_split(min(BLOCKS, len(experience)))
        parts = [replace(experience[rows], advantages=residual[rows]) for rows in blocks if mask[rows].any()]
        signal, noise = gradient_moments(self._gradients(parts, policy_gradient))
        if math.isfinite(signal + noise):  # in half precision a gradient may overflow
            weight, size = min(len(experience), MOST * self.batch), len(experience) / len(parts)
            new = weight * torch.tensor([1.0, signal, noise * size], dtype=torch.float64)
            self.memory.residual.mul_(FORGETTING).add_(new)

    def _gradients(self, parts: list[Experience], policy_gradient: Callable[[Experience], Tensor]) -> Iterator[Tensor]:
        """The surrogate's alone: a KL term in the loss is there without advantages too."""
        for part in parts:
            gradient = policy_gradient(part)
            if self.config.kl_coefficient and self.config.kl_in == "loss":
                gradient = gradient - policy_gradient(replace(part, advantages=torch.zeros_like(part.advantages)))
            yield gradient


def gradient_moments(gradients: Iterable[Tensor]) -> tuple[float, float]:
    """Of K independent estimates [P] of one gradient: its squared norm, without bias and so of either sign, and the variance of an estimate.

    NaN of less than two. No more than two of them are held at once.
    """
    count, total, squares = 0, 0.0, 0.0
    for gradient in gradients:
        count, total, squares = count + 1, total + gradient.double(), squares + float(gradient.double().square().sum())
    if count < 2:
        return math.nan, math.nan
    whole = float(total.square().sum())
    return (whole - squares) / (count * (count - 1)), (squares - whole / count) / (count - 1)


def shrinkage(signal: float, noise: float) -> float:
    """signal / (signal + noise) with a signal below 0 as 0; 0 where there is neither."""
    return max(signal, 0.0) / (max(signal, 0.0) + noise) if max(signal, noise) > 0 else 0.0
