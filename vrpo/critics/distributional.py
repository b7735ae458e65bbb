"""The critic of DVPO (arXiv 2512.03847): quantiles of the return, with tails that are shaped; the value is their mean.

An ensemble of N heads on one backbone gives M quantiles theta_1 ... theta_M each; the distribution is their mean over heads. The loss is
the quantile Huber loss of that distribution plus, each with the weight w,

    tails        (mean of the lower tail - R)^2 + (mean of the upper tail - R)^2          (the paper's CVaR and gain objectives)
    shift        max(R - mean of all, 0)                                                  (against pessimism)
    shape        max(Var lower - Var R, 0) + max(Var R - Var upper, 0)                    (contract the lower, widen the upper tail)
    curvature    max(mean of theta'' in the lower tail, 0) + max(-mean of theta'' in the upper tail, 0)
    consistency  the heads' variance about their mean

The paper's targets are quantiles too, from a GAE taken in each of them: R_j = theta_j + A_j. At lambda 1, the default of
`train.critic.gae_lambda`, each is the sampled return R, as here: one number, so that Var R = 0, the lower tail's variance is what is left
of the shape term, and only curvature widens the upper tail. At a lambda below 1, where the paper's targets would have a width, R is the
mean of its R_j. The policy's advantages are the paper's at any lambda: a mean over quantiles of GAE is GAE of the mean.

The paper itself could not be read; terms and their names are those of public summaries and of a reimplementation. From these come also
M = 200 and w = 0.1, which they call the best, N = 3 and tails of 0.1. Choices of this project: levels (j - 1/2) / M (Dabney et al. 2018,
arXiv 1710.10044) in place of j / M, since level 1 of a return has no gradient from above; the Huber threshold; one w for all terms; no
weight of quantiles by risk, which the reimplementation has and the summaries do not.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vrpo.config import Count, Positive, Section
from vrpo.critics.base import Critic
from vrpo.critics.ensemble import EnsembleHead
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean


def quantile_huber(quantiles: Tensor, returns: Tensor, threshold: float) -> Tensor:
    """mean_j |tau_j - [u_j < 0]| L(u_j) / threshold with u_j = R - theta_j and Huber's L (Dabney et al. 2018, eq. 10).

    Errors below the threshold count by their squares, and by expectiles: the mean of these is not the return's.

    Args:
        quantiles: float [..., M], theta at the levels (j - 1/2) / M.
        returns: float [...], samples R.

    Returns:
        float [...], in units of reward.
    """
    errors, count = returns.unsqueeze(-1) - quantiles, quantiles.shape[-1]
    levels = (torch.arange(count, device=quantiles.device) + 0.5) / count
    huber = F.huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=threshold) / threshold
    return ((levels - (errors < 0).float()).abs() * huber).mean(-1)


def tails(numbers: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The first and the last `share` of [..., M], at least one number each: two [..., k]."""
    size = max(1, round(share * numbers.shape[-1]))
    return numbers[..., :size], numbers[..., -size:]


def tail_losses(quantiles: Tensor, returns: Tensor, share: float) -> dict[str, Tensor]:
    """Terms that shape quantiles [..., M] about returns [...], by name (see the module): [...] each."""
    lower, upper = tails(quantiles, share)
    lower_bend, upper_bend = tails(quantiles.diff(n=2, dim=-1), share)
    return {
        "tails": (lower.mean(-1) - returns).square() + (upper.mean(-1) - returns).square(),
        "shift": F.relu(returns - quantiles.mean(-1)),
        "shape": lower.var(-1, correction=0),
        "curvature": F.relu(lower_bend.mean(-1)) + F.relu(-upper_bend.mean(-1)),
    }


class DistributionalCritic(Critic):
    """L = L_quantile + w * (L_tails + L_shift + L_shape + L_curvature + L_consistency); `train.critic.clip_range` has no part in it.

    Switched on with `train: {critic: {kind: distributional}}` under `methods: [ppo]`.
    """

    class Settings(Section):
        quantiles: Annotated[int, Field(ge=3)] = 200  # M of each head
        heads: Count = 3  # N of the ensemble
        threshold: Positive = 0.05  # Huber's, in units of reward: far below 1, the distance of a right answer's reward from a wrong one's
        tail: Annotated[float, Field(gt=0.0, le=0.5)] = 0.1  # share of the quantiles in each tail
        weight: Annotated[float, Field(ge=0.0)] = 0.1  # w of every term beside the quantile loss; 0: plain quantile regression

    def head(self) -> dict[str, Any]:
        return super().head() | {"head": EnsembleHead, "outputs": self.settings.quantiles, "members": self.settings.heads}

    def loss(self, batch: Experience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Also `spread`, the standard deviation of a token's quantiles, in units of reward."""
        settings, mask, count = self.settings, batch.response_mask, counts["response_mask"]
        heads = self.model.head(hidden, inputs=batch.critic_inputs).outputs.float().unflatten(-1, (settings.heads, settings.quantiles))
        quantiles = heads.mean(-2)
        beside = tail_losses(quantiles, batch.returns, settings.tail) | {"consistency": heads.var(-2, correction=0).mean(-1)}
        terms = {"quantile": quantile_huber(quantiles, batch.returns, settings.threshold)}
        terms |= {name: settings.weight * term for name, term in beside.items()}
        spread = masked_mean(quantiles.detach().std(-1, correction=0), mask, count)
        return {name: masked_mean(term, mask, count) for name, term in terms.items()}, {"spread": spread.item()}
