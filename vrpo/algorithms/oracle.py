"""PPO with the values of an oracle instead of a critic: the headroom that a better critic could win."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vrpo.algorithms.advantages import compute_gae
from vrpo.algorithms.base import Algorithm
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_whiten
from vrpo.errors import UserError


class Oracle(Algorithm):
    """Advantages from GAE over V(s_t) = E[observed reward | s_t], which somebody knows; nothing is learned and no rollout spent on it.

    `success` gives the chance [B, T] that a response ends right from each state on. The observed reward's expectation is an affine
    function of it, fitted to the batch by least squares (arXiv 2508.03058 has no such baseline; it is a measuring rod). The fit is
    that of the observed rewards, whatever rewards the advantages are asked for: one baseline, so that a difference is noise alone.
    """

    success: Callable[[Experience], Tensor] | None = None
    normalised = staticmethod(masked_whiten)

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, None]:
        """See `Algorithm`.

        Raises:
            UserError: nobody knows the values of this task.
        """
        if self.success is None:
            raise UserError(
                "method 'oracle' needs a task whose values are known; use domain: math with prepare.dataset: procedural, or another method"
            )
        mask = experience.response_mask
        values = calibrated(self.success(experience), (experience.rewards * mask).sum(1), mask)
        return compute_gae(rewards, values, mask, self.config.gamma, self.config.gae_lambda), None


def calibrated(success: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """a + b * success [B, T], with a and b from the least-squares fit of the scores [B] over all tokens; 0 where masked."""
    x, y = success[mask].double(), scores[:, None].expand_as(success)[mask].double()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum().clamp(min=1e-12)
    fitted = y.mean() + slope * (success.double() - x.mean())
    return torch.where(mask, fitted.to(success.dtype), torch.zeros_like(success))
