"""The critic against what really happens from a state on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vrpo.algorithms.advantages import returns_to_go
from vrpo.critics.value_model import ValueModel
from vrpo.data.masking import masked_centred
from vrpo.data.text import decode
from vrpo.metrics.critic import correlation
from vrpo.rollout.conversation import Reply, converse
from vrpo.rollout.sampler import Sampler


@dataclass(frozen=True)
class MonteCarloCheck:
    """The critic against what really happens from a state on.

    Attributes:
        values: float [N], the critic's V(s).
        monte_carlo: float [N], mean clean return of fresh continuations from s on.
    """

    values: Tensor
    monte_carlo: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[MonteCarloCheck]) -> MonteCarloCheck:
        """The states of several checks in one."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("values", "monte_carlo")))

    @property
    def correlation(self) -> float:
        return correlation(self.values, self.monte_carlo)

    @property
    def mean_squared_error(self) -> float:
        return float((self.values - self.monte_carlo).square().mean())

    @property
    def slope(self) -> float:
        """How much a value moves when the truth moves by one: Cov(V, V_mc) / Var(V_mc), the scale of what reaches the advantages.

        1 for exact values; under flips the best possible is their J = 1 - fpr - fnr. Chance in the Monte-Carlo values lowers it. NaN where
        they do not vary.
        """
        truth = masked_centred(self.monte_carlo.double(), torch.ones_like(self.monte_carlo, dtype=torch.bool))
        variance = truth.square().mean()
        return float((truth * self.values.double()).mean() / variance) if variance > 0 else math.nan


@torch.no_grad()
def monte_carlo_check(
    sampler: Sampler,
    critic: ValueModel,
    prompts: Sequence[Sequence[int]],
    score: Callable[[list[str]], Sequence[Any]],
    *,
    samples: int,
    seed: int,
    reply: Reply | None = None,
    places: range | None = None,
    gamma: float = 1.0,
) -> MonteCarloCheck:
    """Compare V(s) with the mean clean return of `samples` fresh continuations, at one random state of one rollout per prompt.

    Args:
        sampler: of the policy. A continuation ends where the policy would have ended the response.
        critic: reads as many rows together as the sampler decodes.
        prompts: N lists of token ids.
        score: clean reward of whole responses (texts, see `decode`), one list of N * samples (see `vrpo.rewards.calling.Score`); responses to one
            prompt stand together. What was earned before a state is no part of its return; KL penalties in the reward are left out.
        reply: environment of a dialogue, in which continuations go on (see `converse`).
        places: of the prompts among all that `seed` fixes, when other processes have the others; by default 0 ... N - 1.
        gamma: discount.

    Returns:
        The check, without states none of whose continuations could be scored.
    """
    from vrpo.rewards.experience import token_rewards

    if not prompts:
        return MonteCarloCheck(torch.zeros(0), torch.zeros(0))
    places = range(len(prompts)) if places is None else places
    rollout = converse(sampler, prompts, reply, seed=seed, places=places)
    draws = torch.rand(places.stop, generator=torch.Generator().manual_seed(seed + 1))[places.start :]
    chosen = (draws * rollout.lengths).long()  # of the policy's tokens
    cuts = torch.tensor([int(mask.nonzero()[place, 0]) for mask, place in zip(rollout.response_mask, chosen, strict=True)])
    prefixes = [  # y_<cut is kept: cut 0 is the bare prompt
        (rollout.responses[row, :cut].tolist(), rollout.response_mask[row, :cut].tolist()) for row, cut in enumerate(cuts.tolist())
    ]
    continued = converse(
        sampler,
        [prompt for prompt in prompts for _ in range(samples)],
        None if reply is None else lambda place, turns: reply(place // samples, turns),
        seed=seed + 2,
        places=range(places.start * samples, places.stop * samples),
        prefixes=[prefix for prefix in prefixes for _ in range(samples)],
    )
    scores = score(decode(sampler.tokenizer, continued))
    earned = returns_to_go(token_rewards(scores, continued.response_mask), continued.response_mask, gamma)
    returns = earned.gather(1, cuts.repeat_interleave(samples)[:, None])[:, 0]
    returns[torch.tensor([value is None for value in scores])] = math.nan
    monte_carlo = returns.view(-1, samples).nanmean(1)
    known = monte_carlo.isfinite()
    values = critic.read(rollout, sampler.generation.batch_size).gather(1, cuts[:, None])[:, 0]
    return MonteCarloCheck(values[known], monte_carlo[known])
