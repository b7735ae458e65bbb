"""How far a critic may be trusted: its predictions of rewards that it has not learned from, held against them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RESOLUTION = 1e-14  # a standard deviation below this, of the mean, is rounding of float64


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
        # Number of pairs, their mean, and sums of squares and products about it: raw sums would lose a small spread around a large mean.
        for name, shape in {"count": (), "mean": (2,), "scatter": (2, 2)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, predictions: Tensor, outcomes: Tensor) -> None:
        """Add a batch of pairs, both [N]."""
        pairs = torch.stack([predictions.double().cpu(), outcomes.double().cpu()])
        mean, old, new = pairs.mean(1), self.forgetting * self.count, pairs.shape[1]
        centred, step, share = pairs - mean[:, None], mean - self.mean, new / (old + new)
        self.scatter.mul_(self.forgetting).add_(centred @ centred.T + old * share * torch.outer(step, step))
        self.mean.add_(share * step)
        self.count.copy_(old + new)

    def _variances(self) -> Tensor:
        """Of predictions and outcomes, [2]."""
        return self.scatter.diagonal() / self.count.clamp(min=1.0)

    @property
    def correlation(self) -> float:
        """Of predictions and outcomes, 0 where either does not vary."""
        deviations = self._variances().sqrt()
        if not (deviations > RESOLUTION * self.mean.abs()).all():
            return 0.0
        return float(self.scatter[0, 1] / self.count / deviations.prod())

    @property
    def evidence(self) -> float:
        """The correlation in its standard errors under no skill, 1 / sqrt(N)."""
        return self.correlation * float(self.count) ** 0.5

    @property
    def noise(self) -> float:
        """Standard deviation of outcomes about the best linear use of the predictions: the reward's noise, with what the critic cannot know."""
        return (float(self._variances()[1]) * (1 - min(self.correlation**2, 1.0))) ** 0.5

    @property
    def gain(self) -> float:
        """g = min(1, 1 / evidence^2), 1 where the evidence is negative: what is left to the reward.

        A measured skill z has E[z^2] = 1 + (true z)^2: the share 1 / z^2 of what is measured is chance (positive-part James-Stein shrinkage
        of a critic towards none). Values of skill spread far less than rewards of noise, so that a gain above about .3 is nearly the reward alone.
        """
        return min(1.0, self.evidence**-2) if self.evidence > 0 else 1.0
