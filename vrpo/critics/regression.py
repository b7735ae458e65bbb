"""Bayesian linear regression in closed form: what a value head knows, and how surely, after every batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SPREAD = 1e-6  # a feature whose standard deviation is below this, of its size, is a constant: it tells nothing yet


class Regression(nn.Module):
    """y = w . (x, 1) + n with w_j ~ N(0, s_j^2 Var(y)) on standardised features, and older batches forgotten little by little.

    The posterior's mean minimises sum_i c_i (y_i - w . x_i)^2 + sum_j (w_j / s_j)^2, where c_i is how many observations a row counts as: ridge
    regression (Bishop 2006, eq. 3.53) with the noise's variance taken for the targets' whole one, which it nearly is where a head is
    needed. So weights shrink by the same share whatever the targets' unit, and the intercept is free: targets a * y + b
    give values a * v + b. Before the first batch every value is 0.5, the middle of a 0/1 reward.

    Args:
        prior: s_j of each feature: a share of the targets' standard deviation that one standard deviation of the feature is expected to explain.
        forgetting: factor on what all earlier batches count, each time a new one comes.
    """

    def __init__(self, prior: Sequence[float], forgetting: float) -> None:
        super().__init__()
        size, self.forgetting = len(prior), forgetting
        zeros = {"precision": (size + 1, size + 1), "moment": (size + 1,), "weights": (size + 1,), "location": (size,), "scale": (size,)}
        for name, shape in zeros.items():
            self.register_buffer(name, torch.zeros(*shape, dtype=torch.float64))
        self.register_buffer("penalty", torch.tensor([s**-2 for s in prior] + [0.0], dtype=torch.float64))
        self.weights[-1] = 0.5

    def features(self, inputs: Tensor) -> Tensor:
        """Standardised inputs and a one, float64 [..., F + 1], from inputs [..., F]."""
        standardised = (inputs.double() - self.location) * self.scale
        return torch.cat([standardised, torch.ones_like(standardised[..., :1])], dim=-1)

    def forward(self, inputs: Tensor) -> Tensor:
        """The posterior's mean at inputs [..., F]; float32 [...]."""
        return (self.features(inputs) @ self.weights).float()

    @torch.no_grad()
    def absorb(self, inputs: Tensor, targets: Tensor, counts: Tensor) -> None:
        """Learn from rows that were not learned from before. The first batch also fixes what inputs are standardised by; the unit of one that
        is constant in it, the first in which it varies, since rows before that one are 0 in any unit.

        Args:
            inputs: float [N, F].
            targets, counts: float [N]; how many observations each row counts as.
        """
        exact, weight = inputs.double(), (counts / counts.sum()).double()[:, None]
        if not self.precision.any():
            self.location.copy_((weight * exact).sum(0))
        spread = (weight * (exact - self.location).square()).sum(0).sqrt()
        varies = (self.scale == 0) & (spread > SPREAD * self.location.abs().clamp(min=1.0))
        self.scale.copy_(torch.where(varies, 1 / spread, self.scale))
        rows = self.features(inputs)
        weighted = rows * counts.double()[:, None]
        self.precision.mul_(self.forgetting).add_(weighted.T @ rows)
        self.moment.mul_(self.forgetting).add_(weighted.T @ targets.double())
        self.weights.copy_(torch.linalg.solve(self._posterior(), self.moment))

    def _posterior(self) -> Tensor:
        return self.precision + self.penalty.diag()

    @torch.no_grad()
    def held_out(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """What each row of the batch absorbed last, each counted as one observation, would be predicted to be without it; float64 [N].

        f_i - h_i (y_i - f_i) / (1 - h_i) with the leverage h_i = x_i . P^-1 x_i (Cook and Weisberg 1982, sec. 2.2.2): exact, without a refit.
        """
        rows = self.features(inputs)
        leverage = (torch.linalg.solve(self._posterior(), rows.T).T * rows).sum(-1).clamp(max=1 - 1e-6)
        fitted = rows @ self.weights
        return fitted - leverage * (targets.double() - fitted) / (1 - leverage)
