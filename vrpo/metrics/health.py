"""Is the critic alive, is the reward being gamed? Numbers computed beside training; nothing here feeds back into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DEAD_EXPLAINED_VARIANCE = 0.02  # "near or below zero"
HACKING = 0.05  # the clean reward has fallen by so much while the observed one rose
NO_SKILL = 0.5  # a gain from which on nearly all of the policy's signal is the reward

HEALTH_CHECKS = (
    "dead critic",
    "critic without skill",
    "length inflation",
    "reward hacking",
    "accuracy collapse",
    "latent KL dominates",
    "latent collapse",
)
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
    gains = [r["critic/gain"] for r in history[-patience:] if "critic/gain" in r]
    if len(gains) == patience and min(gains) >= NO_SKILL:
        warn(
            "critic without skill",
            f"for {patience} iterations its values have told too little about rewards to stand in for them (critic/gain >= {NO_SKILL}), so that "
            "the method is PPO with a weak critic: give it other inputs (train.critic.settings), or more critic.warmup_rollouts",
        )
    elif not gains and len(recent) == patience and all(value <= DEAD_EXPLAINED_VARIANCE for value in recent):
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
