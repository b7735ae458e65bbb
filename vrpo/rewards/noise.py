"""Noise channels: what stands between the clean reward and the one that training sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vrpo.seeding import uniform


class NoiseChannel:
    """Flips binary rewards at fixed rates.

    Args:
        false_positive_rate: chance that a reward of 0 is observed as 1.
        false_negative_rate: chance that a reward of 1 is observed as 0.
        seed: of the run; with step, prompt and sample it fixes every flip.
    """

    def __init__(self, false_positive_rate: float, false_negative_rate: float, seed: int) -> None:
        self.false_positive_rate = false_positive_rate
        self.false_negative_rate = false_negative_rate
        self.seed = seed

    def __call__(self, rewards: Sequence[float | None], *, step: int, ids: Sequence[str], samples: Sequence[int]) -> list[float | None]:
        """Observed rewards; None (not scored) stays None.

        Args:
            rewards: clean or label-based rewards, 0 or 1.
            step: iteration of the run.
            ids: problem of each reward.
            samples: index of each response among those to the same problem in this step.
        """
        observed: list[float | None] = []
        for reward, problem, sample in zip(rewards, ids, samples, strict=True):
            if reward is None:
                observed.append(None)
                continue
            rate = self.false_negative_rate if reward > 0.5 else self.false_positive_rate
            flipped = uniform("flip", self.seed, step, problem, sample) < rate
            observed.append(1.0 - reward if flipped else float(reward))
        return observed


def majority_vote(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The most frequent answer and its share of all votes; ties go to the answer that came first. None where nobody answered."""
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None, 0.0
    winner, votes = counts.most_common(1)[0]
    return winner, votes / len(answers)


def confusion(observed: Sequence[float | None], clean: Sequence[float | None]) -> dict[str, float]:
    """How observed rewards relate to clean ones, over rows where both are known.

    Returns:
        true_positive_rate, false_positive_rate, youden_j = TPR - FPR, accuracy and `scored`, the share of rows with an
        observed reward. A rate whose class is empty is NaN.
    """
    pairs = [(o > 0.5, c > 0.5) for o, c in zip(observed, clean, strict=True) if o is not None and c is not None]
    positives = [o for o, c in pairs if c]
    negatives = [o for o, c in pairs if not c]
    tpr = sum(positives) / len(positives) if positives else float("nan")
    fpr = sum(negatives) / len(negatives) if negatives else float("nan")
    return {
        "true_positive_rate": tpr,
        "false_positive_rate": fpr,
        "youden_j": tpr - fpr,
        "accuracy": sum(o == c for o, c in pairs) / len(pairs) if pairs else float("nan"),
        "scored": sum(o is not None for o in observed) / max(len(observed), 1),
    }
