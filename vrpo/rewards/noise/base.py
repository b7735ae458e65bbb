"""What a noise channel is: its parameters, what it does to rewards, and what people and corrections must know of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vrpo.config import Section
from vrpo.errors import UserError
from vrpo.seeding import uniform


@dataclass(frozen=True)
class Responses:
    """What rewards were given to; sequences have one entry a reward.

    Attributes:
        seed: of the run.
        step: its iteration.
        ids: problem of each response.
        samples: index of each response among those to the same problem in this step.
        texts: the responses; empty where rewards come without them.
    """

    seed: int
    step: int
    ids: Sequence[str]
    samples: Sequence[int]
    texts: Sequence[str]

    def at(self, places: Sequence[int]) -> Responses:
        """Some of them."""
        ids, samples, texts = ([values[place] for place in places] if values else () for values in (self.ids, self.samples, self.texts))
        return replace(self, ids=ids, samples=samples, texts=texts)

    def draws(self, name: str) -> list[float]:
        """A number in [0, 1) for each response, anew in each step; `name` keeps the draws of channels apart."""
        return [uniform(name, self.seed, self.step, problem, sample) for problem, sample in zip(self.ids, self.samples, strict=True)]

    def draws_by_problem(self, name: str) -> list[float]:
        """A number in [0, 1) for each response, the same in all steps for all responses to a problem."""
        return [uniform(name, self.seed, problem) for problem in self.ids]


class Channel(Section):
    """One kind of noise: a section of parameters, the entry of `noise` in params.yaml, with what it does.

    A kind is a subclass in a module of `vrpo.rewards.noise`, with `kind: Literal["its name"]` first. Imports that take long belong in `apply`.
    """

    kind: str

    @abstractmethod
    def apply(self, rewards: list[float], given: Responses) -> list[float]:
        """Observed rewards, one for each of these."""

    @abstractmethod
    def describe(self) -> str:
        """The noise in a few words, with units: what reports, runs and tags say of it."""

    @property
    def flip_rates(self) -> tuple[float, float] | None:
        """Chances that a reward of 0 is observed as 1, and 1 as 0; (0, 0) where rewards keep their means, None where nobody knows."""
        return None

    @property
    def uncorrectable(self) -> str:
        """Why no correction can undo it, and the cure; empty where one can."""
        return ""

    def __str__(self) -> str:
        """As in params.yaml."""
        return "{" + ", ".join(f"{key}: {value}" for key, value in self) + "}"


def inverted(reward: float, problem: str) -> float:
    """1 - r.

    Raises:
        UserError: the reward is not between 0 and 1.
    """
    if not 0.0 <= reward <= 1.0:
        raise UserError(
            f"a reward of {reward:g} (problem {problem!r}) cannot be flipped: flips turn r into 1 - r and need rewards from 0 to 1"
        )
    return 1.0 - reward


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.3g} %"
