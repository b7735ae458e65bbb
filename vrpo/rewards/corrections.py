"""Rewards corrected for known or estimated flip rates: what one does against noise without a better critic.

With false positive rate p0 and false negative rate p1 the expected observed reward is E[r~] = p0 + (1 - p0 - p1) r. Both corrections
here are affine in the observed reward. Whatever normalises rewards within a group (GRPO) or advantages over a batch (PPO) undoes them;
they act where the scale of rewards matters: on value targets, on a KL penalty's weight, on plain REINFORCE.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vrpo.errors import UserError
from vrpo.rewards.labels import confusion
from vrpo.rewards.noise import Channel


@dataclass(frozen=True)
class FlipRates:
    """Chances that a binary reward is observed as the other one.

    Attributes:
        false_positive: p0, 0 observed as 1.
        false_negative: p1, 1 observed as 0.
        checked: samples that the rates were estimated from; None where they are known.
    """

    false_positive: float
    false_negative: float
    checked: int | None = None

    @classmethod
    def known(cls, channels: Iterable[Channel]) -> FlipRates:
        """Of rewards that pass through these channels, one after the other; those whose rates nobody knows are passed over."""
        up = down = 0.0
        for channel in channels:
            if rates := channel.flip_rates:
                up, down = up * (1.0 - rates[1]) + (1.0 - up) * rates[0], down * (1.0 - rates[0]) + (1.0 - down) * rates[1]
        return cls(up, down)

    @property
    def signal(self) -> float:
        """1 - p0 - p1 (Youden's J): what is left of the difference between right and wrong."""
        return 1.0 - self.false_positive - self.false_negative


def estimate_rates(observed: Sequence[float | None], clean: Sequence[float | None]) -> FlipRates:
    """Flip rates from samples whose clean reward somebody checked: p0 and 1 - p1 are the mean observed rewards of wrong and right ones.

    Raises:
        UserError: none of the checked samples is right, or none is wrong.
    """
    measured = confusion(observed, clean)
    both = [(o, c) for o, c in zip(observed, clean, strict=True) if o is not None and c is not None]
    right = sum(c > 0.5 for _, c in both)
    if right in (0, len(both)):
        raise UserError(f"flip rates cannot be estimated: {right} of {len(both)} checked samples are right; raise reward.checked_samples")
    return FlipRates(measured["false_positive_rate"], 1.0 - measured["true_positive_rate"], len(both))


def backward_correction(observed: Sequence[float | None], rates: FlipRates) -> list[float | None]:
    """(r~ - p0) / (1 - p0 - p1): its expectation over flips is the clean reward (Natarajan et al. 2013, lemma 1).

    Raises:
        UserError: the rates leave no signal.
    """
    if rates.signal <= 0:
        raise UserError(
            f"rewards with flip rates {rates.false_positive:.2f} and {rates.false_negative:.2f} carry no signal; "
            "lower the noise or use reward.correction: none"
        )
    return [None if reward is None else (reward - rates.false_positive) / rates.signal for reward in observed]


def forward_correction(observed: Sequence[float | None], rates: FlipRates) -> list[float | None]:
    """r~ - (1 - p1): 0 on average for a right response and -(1 - p0 - p1) for a wrong one; needs p1 alone (arXiv 2510.00915)."""
    return [None if reward is None else reward - (1.0 - rates.false_negative) for reward in observed]


CORRECTIONS = {"backward": backward_correction, "forward": forward_correction}


@dataclass(frozen=True)
class CorrectedReward:
    """A reward (see `vrpo.training.trainer.Trainer`) whose scores pass through one of the `CORRECTIONS`."""

    reward: Any
    kind: str
    rates: FlipRates

    def __call__(self, *arguments: Any, **columns: Any) -> list[float | None]:
        return CORRECTIONS[self.kind](self.reward(*arguments, **columns), self.rates)
