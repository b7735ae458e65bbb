"""Flips: a reward is observed as the other one, drawn for each response."""

from __future__ import annotations

from typing import Literal

from vrpo.config import Probability
from vrpo.rewards.noise.base import Channel, Responses, inverted, percent


class Flip(Channel):
    """A reward of 0 (of learned rewards: up to 0.5) is observed as 1, a reward of 1 as 0: r becomes 1 - r, drawn for each response."""

    kind: Literal["flip"] = "flip"
    false_positive: Probability = 0.0  # a reward of 0 is observed as 1
    false_negative: Probability = 0.0  # a reward of 1 is observed as 0

    def apply(self, rewards: list[float], given: Responses) -> list[float]:
        return [
            inverted(reward, problem) if draw < (self.false_negative if reward > 0.5 else self.false_positive) else reward
            for reward, problem, draw in zip(rewards, given.ids, given.draws("flip"), strict=True)
        ]

    def describe(self) -> str:
        return f"flips 0 to 1 ({percent(self.false_positive)}) and 1 to 0 ({percent(self.false_negative)})"

    @property
    def flip_rates(self) -> tuple[float, float]:
        return self.false_positive, self.false_negative
