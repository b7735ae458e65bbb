"""Is the critic alive, is the reward being gamed? Numbers computed beside training; nothing here feeds back into it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vrpo.advantages import returns_to_go
from vrpo.conversation import Reply, converse
from vrpo.critic import ValueModel
from vrpo.generation import decode
from vrpo.masking import masked_centred, masked_mean, masked_var
from vrpo.types import Experience

DEAD_EXPLAINED_VARIANCE = 0.02  # "near or below zero"
HACKING = 0.05  # the clean reward has fallen by so much while the observed one rose
ACTIVE_UNIT_NATS = 0.01  # a latent dimension with less KL than this carries nothing


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over True positions: 1 perfect, 0 no better than a constant. NaN where returns do not vary."""
    variance = masked_var(returns, mask)
    return float(1 - masked_var(returns - values, mask) / variance) if variance > 0 else math.nan


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two [N] tensors, NaN where one of them is constant."""
    a, b = (masked_centred(x.double(), torch.ones_like(x, dtype=torch.bool)) for x in (a, b))
    norm = a.norm() * b.norm()
    return float(a @ b / norm) if norm > 0 else math.nan


def critic_metrics(experience: Experience, rewards: dict[str, Tensor], gamma: float) -> dict[str, float]:
    """Fit of the rollout's values to what they predict: the returns from each token on, of each of the `rewards` [B, T] by name."""
    mask = experience.response_mask
    metrics = {}
    for name, earned in rewards.items():
        returns = returns_to_go(earned, mask, gamma)
        metrics[f"critic/ev_{name}"] = explained_variance(experience.values, returns, mask)
        metrics[f"critic/mse_{name}"] = float(masked_mean((experience.values - returns) ** 2, mask))
    return metrics


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
    policy: Any,
    critic: ValueModel,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    score: Callable[[list[str]], Sequence[Any]],
    *,
    samples: int,
    seed: int,
    reply: Reply | None = None,
    places: range | None = None,
    gamma: float = 1.0,
    batch_size: int = 256,
    **generation: Any,
) -> MonteCarloCheck:
    """Compare V(s) with the mean clean return of `samples` fresh continuations, at one random state of one rollout per prompt.

    Args:
        policy, critic: models on one device.
        prompts: N lists of token ids.
        score: clean reward of whole responses (texts, see `decode`), one list of N * samples (see `vrpo.scoring.Score`); responses to one
            prompt stand together. What was earned before a state is no part of its return; KL penalties in the reward are left out.
        reply: environment of a dialogue, in which continuations go on (see `converse`).
        places: of the prompts among all that `seed` fixes, when other processes have the others; by default 0 ... N - 1.
        gamma: discount.
        batch_size: rows decoded, and read by the critic, together.
        generation: further arguments of `converse`. A continuation ends where the policy would have ended the response.

    Returns:
        The check, without states none of whose continuations could be scored.
    """
    from vrpo.scoring import token_rewards  # which itself asks this module how good values are

    if not prompts:
        return MonteCarloCheck(torch.zeros(0), torch.zeros(0))
    places = range(len(prompts)) if places is None else places
    rollout = converse(policy, tokenizer, prompts, reply, seed=seed, places=places, batch_size=batch_size, **generation)
    draws = torch.rand(places.stop, generator=torch.Generator().manual_seed(seed + 1))[places.start :]
    chosen = (draws * rollout.lengths).long()  # of the policy's tokens
    cuts = torch.tensor([int(mask.nonzero()[place, 0]) for mask, place in zip(rollout.response_mask, chosen, strict=True)])
    prefixes = [  # y_<cut is kept: cut 0 is the bare prompt
        (rollout.responses[row, :cut].tolist(), rollout.response_mask[row, :cut].tolist()) for row, cut in enumerate(cuts.tolist())
    ]
    continued = converse(
        policy,
        tokenizer,
        [prompt for prompt in prompts for _ in range(samples)],
        None if reply is None else lambda place, turns: reply(place // samples, turns),
        seed=seed + 2,
        places=range(places.start * samples, places.stop * samples),
        prefixes=[prefix for prefix in prefixes for _ in range(samples)],
        batch_size=batch_size,
        **generation,
    )
    scores = score(decode(tokenizer, continued))
    earned = returns_to_go(token_rewards(scores, continued.response_mask), continued.response_mask, gamma)
    returns = earned.gather(1, cuts.repeat_interleave(samples)[:, None])[:, 0]
    returns[torch.tensor([value is None for value in scores])] = math.nan
    monte_carlo = returns.view(-1, samples).nanmean(1)
    known = monte_carlo.isfinite()
    values = critic.read(rollout, batch_size).gather(1, cuts[:, None])[:, 0]
    return MonteCarloCheck(values[known], monte_carlo[known])


def latent_metrics(readings: dict[str, Tensor], mask: Tensor) -> dict[str, float]:
    """Nats through the first bottleneck and its active units, from the reading `latent_kl` [B, T, Z] where there is one."""
    if "latent_kl" not in readings:
        return {}
    per_dimension = readings["latent_kl"][mask].mean(0)
    return {"critic/active_units": float((per_dimension > ACTIVE_UNIT_NATS).sum()), "critic/latent_kl": float(per_dimension.sum())}


HEALTH_CHECKS = ("dead critic", "length inflation", "reward hacking", "accuracy collapse", "latent KL dominates", "latent collapse")
HEALTH_CHECKS += ("half precision", "reward resolution", "undefined metrics")
# NaN by definition: a rate of nothing, a mean over no scored response, a fit to returns that do not vary.
MAY_BE_UNDEFINED = {"reward/observed", "reward/clean", "reward/true_positive_rate", "reward/false_positive_rate", "critic/ev_observed"}
MAY_BE_UNDEFINED |= {"critic/ev_clean", "critic/corr_mc", "critic/slope_mc"}


@dataclass(frozen=True)
class HealthWarning:
    """A failure signature, the paper's or one of numbers, seen while training."""

    check: str
    iteration: int
    message: str


def health_warnings(history: Sequence[dict[str, float]], patience: int = 5, skipped: int = 3) -> list[HealthWarning]:
    """Failure signatures that the last rows of a log show (method.md; arXiv 2508.03058, failure signatures).

    Args:
        history: log rows so far, the newest last, in which metrics may be NaN or infinite.
        patience: rows in a row for which explained variance must be dead before it is called so.
        skipped: steps in so many rows that half precision may skip while it looks for its scale.
    """
    if not history:
        return []
    undefined = [name for name, value in history[-1].items() if math.isinf(value) or (math.isnan(value) and name not in MAY_BE_UNDEFINED)]
    history = [*history[:-1], finite_metrics(history[-1])]
    row, found = history[-1], []

    def warn(check: str, message: str) -> None:
        found.append(HealthWarning(check, int(row["iteration"]), message))

    recent = [r["critic/ev_observed"] for r in history[-patience:] if "critic/ev_observed" in r]
    if len(recent) == patience and all(value <= DEAD_EXPLAINED_VARIANCE for value in recent):
        warn(
            "dead critic",
            f"explained variance <= {DEAD_EXPLAINED_VARIANCE} for {patience} iterations: train the critic longer (critic.epochs, critic.warmup_rollouts) or lower critic.beta",
        )
    if row.get("length/inflation", 1.0) > 1.5:
        warn(
            "length inflation",
            f"responses are {row['length/inflation']:.2f} times as long as at the start: look for reward hacking; add train.kl_coefficient",
        )
    both = [r for r in history if {"reward/observed", "reward/clean"} <= r.keys()]
    if len(both) >= 2 * patience:
        observed, clean = (_moving_means([r[name] for r in both], patience) for name in ("reward/observed", "reward/clean"))
        best = max(range(len(clean)), key=clean.__getitem__)
        if clean[best] - clean[-1] > HACKING and observed[-1] > observed[best]:
            warn(
                "reward hacking",
                f"the observed reward rose from {observed[best]:.3f} to {observed[-1]:.3f} while the clean one fell from its best, "
                f"{clean[best]:.3f}, to {clean[-1]:.3f}: train for fewer iterations, add train.kl_coefficient, or mend the reward",
            )
    accuracies = [r["validation/accuracy"] for r in history if "validation/accuracy" in r]
    if len(accuracies) > 1 and "validation/accuracy" in row and max(accuracies) - accuracies[-1] > 0.15:
        warn(
            "accuracy collapse",
            f"held-out accuracy fell from {max(accuracies):.3f} to {accuracies[-1]:.3f}: lower train.learning_rate or the noise",
        )
    if row.get("critic/kl", 0.0) > row.get("critic/mse", float("inf")):
        warn("latent KL dominates", "beta * KL is larger than the squared error: lower critic.beta")
    if row.get("critic/active_units", 1.0) == 0:
        warn("latent collapse", "no latent unit carries information, the values are a constant: lower critic.beta")
    lost = {name: sum(r.get(f"{name}/skipped_steps", 0.0) for r in history[-patience:]) for name in ("policy", "critic")}
    if max(lost.values()) >= skipped:
        warn(
            "half precision",
            f"{lost['policy']:.0f} steps of the policy and {lost['critic']:.0f} of the critic were skipped in {patience} iterations, because "
            "gradients overflowed: train in bfloat16 or float32 (precision, runtime.dtype)",
        )
    if "reward/rounding" in row:
        warn(
            "reward resolution",
            f"float32 changes rewards by {row['reward/rounding']:.0%} of their spread: they are too large for their differences; lower them "
            "by a constant",
        )
    if undefined:
        warn(
            "undefined metrics",
            f"{', '.join(undefined)} NaN or infinite, and left out of the log: look at the rewards and at the model's numbers, or lower "
            "train.learning_rate if they grew in training",
        )
    return found


def finite_metrics(row: dict[str, float]) -> dict[str, float]:
    """The metrics of a row that are numbers."""
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _moving_means(values: Sequence[float], width: int) -> list[float]:
    """Means of every `width` neighbours."""
    return [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]


def health_metrics(warnings: Sequence[HealthWarning]) -> dict[str, float]:
    """1 for each check that fires and 0 for the others, as metrics `health/<check>`."""
    firing = {warning.check for warning in warnings}
    return {f"health/{check.lower().replace(' ', '_')}": float(check in firing) for check in HEALTH_CHECKS}
