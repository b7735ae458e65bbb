"""How far a critic may be trusted: its predictions of rewards that it has not learned from, held against them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Skill(nn.Module):
    """Moments of pairs (prediction, outcome) over the batches so far, older ones forgotten little by little.

    Pairs of several batches are pooled before they are centred: a critic whose values rise from batch to batch while rewards do not, since the policy has
    learned to please it, loses skill even if it still orders the responses of one batch.

    Args:
        forgetting: factor on what all earlier batches count, each time a new one comes.
    """

    def __init__(self, forgetting: float) -> None:
        super().__init__()
        self.forgetting = forgetting
        self.register_buffer("moments", torch.zeros(6, dtype=torch.float64))  # sums of 1, x, y, x^2, x y, y^2

    @torch.no_grad()
    def update(self, predictions: Tensor, outcomes: Tensor) -> None:
        """Add a batch of pairs, both [N]."""
        x, y = predictions.double().cpu(), outcomes.double().cpu()
        sums = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y]).sum(1)
        self.moments.mul_(self.forgetting).add_(sums)

    def _centred(self) -> tuple[float, float, float, float]:
        """Number of pairs, variance of predictions, covariance, variance of outcomes."""
        count, x, y, xx, xy, yy = self.moments.tolist()
        if count == 0:
            return 0.0, 0.0, 0.0, 0.0
        return count, xx / count - (x / count) ** 2, xy / count - x * y / count**2, yy / count - (y / count) ** 2

    @property
    def correlation(self) -> float:
        """Of predictions and outcomes, 0 where either does not vary."""
        _, x, covariance, y = self._centred()
        return covariance / (x * y) ** 0.5 if min(x, y) > 1e-18 else 0.0

    @property
    def evidence(self) -> float:
        """The correlation in its standard errors under no skill, 1 / sqrt(N)."""
        return self.correlation * self._centred()[0] ** 0.5

    @property
    def noise(self) -> float:
        """Standard deviation of outcomes about the best linear use of the predictions: the reward's noise, with what the critic cannot know."""
        return (self._centred()[3] * (1 - min(self.correlation**2, 1.0))) ** 0.5

    @property
    def gain(self) -> float:
        """g = min(1, 1 / evidence^2), 1 where the evidence is negative: what is left to the reward.

        A measured skill z has E[z^2] = 1 + (true z)^2: the share 1 / z^2 of what is measured is chance (positive-part James-Stein shrinkage
        of a critic towards none). Values of skill spread far less than rewards of noise, so that a gain above about .3 is nearly the reward alone.
        """
        return min(1.0, self.evidence**-2) if self.evidence > 0 else 1.0
