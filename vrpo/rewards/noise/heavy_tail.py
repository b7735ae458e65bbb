"""Heavy tails: most rewards barely move, a few are far off."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vrpo.config import Positive
from vrpo.rewards.noise.base import Channel, Responses


class HeavyTail(Channel):
    """A draw of Student's t is added to every reward: most barely move, a few are far off."""

    kind: Literal["heavy_tail"] = "heavy_tail"
    scale: Annotated[float, Field(ge=0.0)]  # of the draws, in units of reward
    degrees: Positive = 2.0  # of freedom: the fewer, the heavier; at 2 or below the variance is infinite, at 1 there is no mean

    def apply(self, rewards: list[float], given: Responses) -> list[float]:
        from scipy.stats import t

        draws = t.ppf([max(place, 1e-12) for place in given.draws("heavy tail")], self.degrees)
        return [float(reward + self.scale * draw) for reward, draw in zip(rewards, draws, strict=True)]

    def describe(self) -> str:
        return f"heavy tails of {self.scale:g} in units of reward (Student's t, {self.degrees:g} degrees of freedom)"

    @property
    def flip_rates(self) -> tuple[float, float]:
        return 0.0, 0.0

    @property
    def uncorrectable(self) -> str:
        return "such tails have no mean that could be corrected; raise the degrees above 1" if self.scale and self.degrees <= 1 else ""
