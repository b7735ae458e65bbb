"""AsyPPO (arXiv 2510.01656) as a difference from PPO: two critics, and no advantage where they agree.

On tokens whose two values differ least, the policy is taken to have nothing to learn: their term of the surrogate is 0. The share of them,
`train.critic.settings.masked`, is the paper's 20 % and counted over an iteration's rollouts (over what is not said in what could be read of
the paper). They still count in the mean's divisor, as in the paper's objective. Its other use of the disagreement, to leave tokens with
the most of it out of an entropy bonus, has no place here: there is no entropy bonus.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from vrpo.algorithms.ppo import PPO
from vrpo.config import TrainConfig
from vrpo.critics.pair import PairCritic, PairExperience
from vrpo.data.masking import masked_mean
from vrpo.errors import UserError


class AsyPPO(PPO):
    """PPO whose critics say which tokens to learn from.

    Raises:
        UserError: another critic is chosen.
    """

    own_critic = PairCritic

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        super().__init__(config, policy, seed)
        if not isinstance(self.critic, PairCritic):
            raise UserError(f"train.critic.kind = {config.critic.kind!r}: asyppo needs the disagreement of two critics; use pair")

    def policy_loss(self, batch: PairExperience, logprobs: Tensor, counts: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """PPO's with advantages after normalisation set to 0 on uninformative tokens, whose share is logged."""
        informative = replace(batch, advantages=batch.advantages * batch.informative)
        loss, metrics = super().policy_loss(informative, logprobs, counts)
        masked = masked_mean((~batch.informative).float(), batch.response_mask, counts["response_mask"])
        return loss, metrics | {"masked_advantages": masked.item()}
