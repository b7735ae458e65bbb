"""Noise channels: what stands between the clean reward and the one that training sees.

A channel maps rewards to noisier ones. Its draws depend on the run's seed, the step, the problem and the sample, never on a
generator that others share; channels compose (`compose`). Rewards that could not be scored (None) stay None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vrpo.errors import UserError
from vrpo.seeding import uniform

Channel = Callable[..., list[float | None]]


class NoiseChannel:
    """Flips rewards between 0 and 1 at fixed rates: r is observed as 1 - r.

    Args:
        false_positive_rate: chance that a reward of 0 (of learned rewards: up to 0.5) is flipped.
        false_negative_rate: chance that a reward of 1 (above 0.5) is flipped.
        seed: of the run; with step, prompt and sample it fixes every flip.
    """

    def __init__(self, false_positive_rate: float, false_negative_rate: float, seed: int) -> None:
        self.false_positive_rate = false_positive_rate
        self.false_negative_rate = false_negative_rate
        self.seed = seed

    def __call__(self, rewards: Sequence[float | None], *, step: int, ids: Sequence[str], samples: Sequence[int]) -> list[float | None]:
        """Observed rewards; None (not scored) stays None.

        Args:
            rewards: clean, label-based or learned rewards, 0 to 1.
            step: iteration of the run.
            ids: problem of each reward.
            samples: index of each response among those to the same problem in this step.

        Raises:
            UserError: a reward is not between 0 and 1.
        """
        observed: list[float | None] = []
        for reward, problem, sample in zip(rewards, ids, samples, strict=True):
            if reward is None:
                observed.append(None)
                continue
            rate = self.false_negative_rate if reward > 0.5 else self.false_positive_rate
            flipped = uniform("flip", self.seed, step, problem, sample) < rate
            observed.append(_inverted(reward, problem) if flipped else float(reward))
        return observed


class PromptFlip:
    """Inverts every reward of a fixed share of the problems, in all steps: noise that does not average out.

    Args:
        rate: share of problems.
        seed: of the run.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed

    def __call__(self, rewards: Sequence[float | None], *, step: int, ids: Sequence[str], samples: Sequence[int]) -> list[float | None]:
        return [
            reward if reward is None or uniform("prompt flip", self.seed, problem) >= self.rate else _inverted(reward, problem)
            for reward, problem in zip(rewards, ids, strict=True)
        ]


def _inverted(reward: float, problem: str) -> float:
    if not 0.0 <= reward <= 1.0:
        raise UserError(
            f"a reward of {reward:g} (problem {problem!r}) cannot be flipped: flips turn r into 1 - r and need rewards from 0 to 1"
        )
    return 1.0 - reward


class HeavyTail:
    """Adds `scale` times a draw of Student's t: most rewards barely move, a few are far off.

    Args:
        scale: of the noise, in units of reward.
        degrees: of freedom; at 2 or below the variance is infinite.
        seed: of the run.
    """

    def __init__(self, scale: float, degrees: float, seed: int) -> None:
        self.scale, self.degrees, self.seed = scale, degrees, seed

    def __call__(self, rewards: Sequence[float | None], *, step: int, ids: Sequence[str], samples: Sequence[int]) -> list[float | None]:
        from scipy.stats import t

        places = [uniform("heavy tail", self.seed, step, problem, sample) for problem, sample in zip(ids, samples, strict=True)]
        draws = t.ppf([max(place, 1e-12) for place in places], self.degrees)
        return [None if reward is None else float(reward + self.scale * draw) for reward, draw in zip(rewards, draws, strict=True)]


def compose(*channels: Channel) -> Channel:
    """One channel that passes rewards through all of them, the first one first."""

    def observe(rewards: Sequence[float | None], **key: Sequence) -> list[float | None]:
        for channel in channels:
            rewards = channel(rewards, **key)
        return list(rewards)

    return observe


def majority_vote(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The most frequent answer and its share of all votes; ties go to the answer that came first. None where nobody answered."""
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    winner, votes = counts.most_common(1)[0]
    return winner, votes / len(answers)


def confusion(observed: Sequence[float | None], clean: Sequence[float | None]) -> dict[str, float]:
    """How observed rewards relate to clean ones (right above 0.5), over rows where both are known.

    Rewards that are not 0 or 1 (learned, with heavy tails, corrected) have no rates; what stands for them is the same mean, of the
    observed rewards of right and of wrong responses, and their difference is what is left of the signal whatever the rewards' form.

    Returns:
        true_positive_rate, false_positive_rate, youden_j = TPR - FPR, accuracy (1 less the mean distance of observed and clean) and
        `scored`, the share of rows with an observed reward. A rate whose class is empty is NaN.
    """
    pairs = [(o, c) for o, c in zip(observed, clean, strict=True) if o is not None and c is not None]
    positives = [o for o, c in pairs if c > 0.5]
    negatives = [o for o, c in pairs if c <= 0.5]
    tpr = sum(positives) / len(positives) if positives else float("nan")
    fpr = sum(negatives) / len(negatives) if negatives else float("nan")
    return {
        "true_positive_rate": tpr,
        "false_positive_rate": fpr,
        "youden_j": tpr - fpr,
        "accuracy": sum(1 - abs(o - c) for o, c in pairs) / len(pairs) if pairs else float("nan"),
        "scored": sum(o is not None for o in observed) / max(len(observed), 1),
    }
