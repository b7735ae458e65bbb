"""What the trainer asks of an algorithm. The method `x` is the `Algorithm` that `vrpo/algorithms/x.py` defines."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vrpo.algorithms.losses import clipped, importance_weights, kl_k1, policy_loss
from vrpo.config import TrainConfig
from vrpo.critics.base import Critic
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean
from vrpo.errors import UserError
from vrpo.kinds import find


class Algorithm:
    """Turns scored rollouts into advantages, and these into a loss of the policy.

    Args:
        config: the run's parameters.
        policy: the SFT model, from which a critic starts.
        seed: draws the critic's head.

    Attributes:
        grouped: the responses to one prompt are compared with each other: there are `train.group_size` of them instead of one.
        own_critic: its critic where `train.critic.kind` names no other; None: it has none.
        memory: what it learns over a run beside the models; its buffers are part of checkpoints.
    """

    grouped = False
    own_critic: type[Critic] | None = None

    def __init__(self, config: TrainConfig, policy: nn.Module, seed: int) -> None:
        self.config = config
        self.group_size = config.group_size if self.grouped else 1
        kind = self.own_critic
        if kind and config.critic.kind:
            kind = find("critics", config.critic.kind, "train.critic.kind")
        self.critic = kind(config.critic, policy, seed) if kind else None
        self.warmup_rollouts = config.value_warmup(self.group_size) if kind else 0
        self.memory = nn.Module()

    def advantages(self, experience: Experience, rewards: Tensor) -> tuple[Tensor, Tensor | None]:
        """Advantages and the critic's targets, both [B, T], in the unit of `rewards` [B, T]; None without a critic.

        Masked positions of either may hold anything.
        """
        raise NotImplementedError

    def penalty(self, experience: Experience) -> Tensor | float:
        """What is taken off the reward of each token, [B, T] or 0: with `train.kl_in: reward` the divergence from the reference."""
        if not self.config.kl_coefficient or self.config.kl_in != "reward":
            return 0.0
        return self.config.kl_coefficient * (kl_k1(experience.logprobs, experience.reference_logprobs) * experience.response_mask)

    def metrics(self, experience: Experience) -> dict[str, float]:
        """Numbers of its own about a fresh annotated rollout batch, logged as they are named."""
        return {}

    def observe(self, experience: Experience, policy_gradient: Callable[[Experience], Tensor]) -> None:
        """Look at a rollout batch before the policy's step; by default in no way.

        Args:
            experience: with `final_values` and the like from a critic that has not learned from it (see `absorb`).
            policy_gradient: what the policy's loss on a batch with `advantages` would have as its gradient, float32 [P]; nothing is changed.
        """

    def absorb(self, experience: Experience) -> Experience:
        """Learn from a rollout batch what no gradient teaches, after the policy's step and the critic's passes (see `Critic.absorb`).

        Returns:
            the experience as a critic would see it that has not learned from it.
        """
        if self.critic is not None:
            self.critic.absorb(experience)
        return experience

    def filtered(self, experience: Experience) -> Experience:
        """The rows of an iteration's rollouts that policy and critic learn from, advantages and returns in them; by default all.

        The value warm-up's rollouts, one a prompt, do not pass through here.
        """
        return experience

    def normalised(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """The advantages [B, T] as the loss takes them, over what is learned from of an iteration; by default as they are."""
        return advantages

    def importance_weights(self, batch: Experience) -> Tensor:
        """What advantages are multiplied by where another engine sampled than the policy, [B, T] or [B, 1]; by default for each token."""
        return importance_weights(batch.logprobs, batch.sampled_logprobs, self.config.importance_cap)

    def loss_count(self, counts: dict[str, Tensor]) -> Tensor:
        """What `policy_loss` divides the sum over an optimiser batch by: its response tokens (DAPO's and TRL's default)."""
        return counts["response_mask"]

    def policy_loss(self, batch: Experience, logprobs: Tensor, counts: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """A micro-batch's share of the surrogate, a scalar that is minimised, and of metrics. By default PPO's, token by token.

        Args:
            batch: a micro-batch with advantages.
            logprobs: float32 [B, T] of its tokens under the policy that learns, 0 where masked.
            counts: over the whole optimiser batch, so that shares add up: the True positions of each mask by its name, `responses`, those
                with a token in `response_mask`, and `max_new_tokens`, the longest that a response could be (in a dialogue all of its turns).
        """
        mask, sides = batch.response_mask, (logprobs, batch.logprobs, batch.advantages, self.config.clip_range)
        clip = masked_mean(clipped(*sides).float(), mask, counts["response_mask"])
        return masked_mean(policy_loss(*sides), mask, self.loss_count(counts)), {"clip_fraction": clip.item()}


def find_algorithm(name: str, config: TrainConfig) -> type[Algorithm]:
    """The algorithm of this name, for a run with these parameters.

    Raises:
        UserError: there is none, or it cannot run so.
    """
    algorithm = find("algorithms", name, "method")
    if algorithm.grouped and config.group_size == 1:
        raise UserError(f"train.group_size = 1: {name} compares the responses to one prompt with each other; use 2 or more")
    groups, warmup = config.iterations * config.group_size, config.value_warmup(config.group_size)
    if algorithm.grouped and algorithm.own_critic and warmup % groups:
        raise UserError(
            f"train.critic.warmup_rollouts = {warmup} is no multiple of iterations = {config.iterations} x group_size = {config.group_size}, "
            f"so {name}, which has groups and a critic, could not spend all rollouts; use {warmup - warmup % groups}"
        )
    return algorithm
