"""Noise channels: what stands between the clean reward and the one that training sees.

Each kind of channel is a module of this package (see `base.Channel`), found by its being here. Channels compose, and their draws depend on
the run's seed, the step, the problem and the sample, never on a generator that others share. Rewards that could not be scored (None) stay None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Union

from pydantic import Field

from vrpo.errors import UserError
from vrpo.rewards.labels import confusion as confusion  # were here once
from vrpo.rewards.labels import majority_vote as majority_vote
from vrpo.rewards.noise.base import Channel as Channel
from vrpo.rewards.noise.base import Responses
from vrpo.seeding import derive_seed

MODULES = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
CHANNELS = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Channel) and kind is not Channel and kind.__module__ == module.__name__
]
AnyChannel = Annotated[Union[tuple(CHANNELS)], Field(discriminator="kind")]  # noqa: UP007


class Noise:
    """Channels under one seed, the first one first.

    Args:
        channels: through which rewards pass.
        seed: of the run; with step, problem and sample it fixes every draw.
    """

    def __init__(self, channels: Sequence[Channel], seed: int) -> None:
        self.channels, self.seed = tuple(channels), seed

    def __call__(
        self, rewards: Sequence[float | None], *, step: int, ids: Sequence[str], samples: Sequence[int], responses: Sequence[str] = ()
    ) -> list[float | None]:
        """Observed rewards; None (not scored) stays None.

        Args:
            rewards: clean, label-based or learned rewards.
            step, ids, samples, responses: see `base.Responses`.

        Raises:
            UserError: a reward is one that a channel cannot act on.
        """
        if any(isinstance(reward, list | tuple) for reward in rewards):
            raise UserError("the reward gives one number a turn and noise acts on one a response; sum them, or leave the noise out")
        known = [place for place, reward in enumerate(rewards) if reward is not None]
        given, passed = Responses(self.seed, step, ids, samples, responses).at(known), Counter[str]()
        values = [float(rewards[place]) for place in known]
        for channel in self.channels:
            again = passed[channel.kind]  # a kind that stands there twice draws anew
            values = channel.apply(values, replace(given, seed=derive_seed(self.seed, again)) if again else given)
            passed[channel.kind] += 1
        observed: list[float | None] = [None] * len(rewards)
        for place, value in zip(known, values, strict=True):
            observed[place] = value
        return observed


class NoiseChannel(Noise):
    """Flips rewards between 0 and 1 at fixed rates: r is observed as 1 - r.

    Args:
        false_positive_rate: chance that a reward of 0 (of learned rewards: up to 0.5) is flipped.
        false_negative_rate: chance that a reward of 1 (above 0.5) is flipped.
        seed: of the run; with step, prompt and sample it fixes every flip.
    """

    def __init__(self, false_positive_rate: float, false_negative_rate: float, seed: int) -> None:
        from vrpo.rewards.noise.flip import Flip

        super().__init__([Flip(false_positive=false_positive_rate, false_negative=false_negative_rate)], seed)
