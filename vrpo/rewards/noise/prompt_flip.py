"""Problems whose rewards are all inverted, in all steps: noise that does not average out."""

from __future__ import annotations

from typing import Literal

from vrpo.config import Probability
from vrpo.rewards.noise.base import Channel, Responses, inverted, percent


class PromptFlip(Channel):
    """Every reward of a fixed share of the problems is inverted, in all steps: noise that does not average out."""

    kind: Literal["prompt_flip"] = "prompt_flip"
    rate: Probability  # share of problems

    def apply(self, rewards: list[float], given: Responses) -> list[float]:
        return [
            inverted(reward, problem) if draw < self.rate else reward
            for reward, problem, draw in zip(rewards, given.ids, given.draws_by_problem("prompt flip"), strict=True)
        ]

    def describe(self) -> str:
        return f"{percent(self.rate)} of the problems inverted"

    @property
    def flip_rates(self) -> tuple[float, float]:
        return self.rate, self.rate
