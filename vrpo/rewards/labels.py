"""Labels by majority vote, and what rewards that come of labels and noise are worth beside clean ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


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
