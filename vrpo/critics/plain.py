"""The critic of PPO: a value head on the backbone's states, fitted by least squares."""

from __future__ import annotations

from torch import Tensor

from vrpo.critics.base import Critic
from vrpo.data.batch import Experience


class PlainCritic(Critic):
    """L = L_mse."""

    def loss(self, batch: Experience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        return {"mse": self.squared_error(batch, self.model.head(hidden, inputs=batch.critic_inputs).values, counts)}, {}
