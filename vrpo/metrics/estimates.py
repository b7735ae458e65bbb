"""Estimates with intervals out of scores of responses, some of which come in clusters: what `vrpo.metrics.audit` is made of.

Intervals count prompts, not scorings: responses to one prompt share its reference and its difficulty. Each estimate comes with what a single
scoring moves it by (its influence), the sums of which over clusters give its standard error. Shares have Wilson's interval at the effective
number of independent cases, correlations Fisher's, everything else Student's t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vrpo.metrics.statistics import clustered_error, wilson

Array = np.ndarray
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Scorings:
    """Single scores [M] (NaN: none), whether each one's response is right (1, 0, NaN: nobody checked), its standardised length, its prompt."""

    scores: Array
    right: Array
    length: Array
    clusters: Array

    def only(self, places: Array) -> Scorings:
        """Some of them."""
        return Scorings(self.scores[places], self.right[places], self.length[places], self.clusters[places])


def share(value: float, influences: Array, clusters: Array) -> Estimate:
    """Of a share, with Wilson's interval at the number of independent cases that its standard error is worth."""
    if len(np.unique(clusters)) < 2:  # all of one prompt: nothing is known of others
        return Estimate(value, 0.0, 1.0)
    error, count = clustered_error(influences, clusters)
    worth = min(len(influences), value * (1 - value) / error**2) if error > 0 else count
    return Estimate(value, *wilson(value, worth, _quantile(count)))


def mean(values: Array, clusters: Array) -> Estimate:
    """Of values [M]."""
    value = float(values.mean())
    return _symmetric(value, (values - value) / len(values), clusters)


def repeatability(scores: Array, clusters: Array, split: float) -> dict[str, Estimate | None]:
    """Of scores [N, repeats] of N responses: `flips` over `split`, `within`, `between`, `reliability`; None without two scores of a response."""
    counts = (~np.isnan(scores)).sum(1)
    places = counts > 1
    if len(np.unique(clusters[places])) < 2:
        return dict.fromkeys(("flips", "within", "between", "reliability"))
    scores, clusters, counts = scores[places], clusters[places], counts[places]
    above = (scores > split).sum(1)
    disagree = 2 * above * (counts - above) / (counts * (counts - 1))
    means, within = np.nanmean(scores, 1), np.nanvar(scores, 1, ddof=1)
    between = np.square(means - means.mean()) * len(means) / (len(means) - 1) - within / counts  # less what noise adds to the means
    total = between + within
    reliability = max(0.0, float(between.mean() / total.mean())) if total.mean() > 0 else 0.0
    found = _symmetric(reliability, (between - reliability * total) / max(total.mean(), 1e-300) / len(total), clusters)
    return {
        "flips": share(float(disagree.mean()), (disagree - disagree.mean()) / len(disagree), clusters),
        "within": mean(within, clusters),
        "between": mean(between, clusters),
        "reliability": Estimate(reliability, max(0.0, found.low), min(1.0, found.high)),
    }


def rates(checked: Scorings, split: float) -> tuple[Estimate, Estimate]:
    """Shares of right and of wrong scorings above `split`: TPR and FPR."""
    found = []
    for places in (checked.right == 1, checked.right == 0):
        hits = (checked.scores[places] > split).astype(float)
        found.append(share(float(hits.mean()), (hits - hits.mean()) / len(hits), checked.clusters[places]))
    return found[0], found[1]


def youden(checked: Scorings) -> Estimate:
    """2 AUC - 1, which for two values is TPR - FPR; AUC's error by the structural components of DeLong et al., by clusters (Obuchowski 1997)."""
    right, scores = checked.right == 1, checked.scores
    above = _share_below(scores[right], scores[~right])  # of each right scoring: the wrong ones that it beats
    below = 1 - _share_below(scores[~right], scores[right])  # of each wrong scoring: the right ones that beat it
    area = float(above.mean())
    influences = np.empty(len(scores))
    influences[right], influences[~right] = (above - area) / len(above), (below - area) / len(below)
    found = share(area, influences, checked.clusters)
    return Estimate(2 * area - 1, 2 * found.low - 1, 2 * found.high - 1)


def cost(checked: Scorings, j: Estimate) -> Estimate:
    """1 / rho^2, rho the correlation of the score and being right; infinite where it may be 0 or below. `j` bounds it where no error was seen."""
    x, y = ((values - values.mean()) / (values.std() or 1.0) for values in (checked.scores, checked.right))
    rho = float(np.clip((x * y).mean(), -1, 1))
    if 1 - rho**2 < 1e-9:
        low, high = (j.low, 1.0) if rho > 0 else (-1.0, j.high)
    else:
        error, count = clustered_error((x * y - rho * (x**2 + y**2) / 2) / len(x), checked.clusters)
        half = _quantile(count) * error / (1 - rho**2)
        low, high = math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half)
    return Estimate(*(1 / value**2 if value > 0 else math.inf for value in (rho, high, low)))


def slopes(given: Scorings, *columns: Array) -> list[Estimate]:
    """Least squares of the score on a constant and these columns [M]: the columns' coefficients."""
    design = np.stack([np.ones(len(given.scores)), *columns], 1)
    weights = np.linalg.pinv(design)  # [columns, M]
    dust = 1e-9 * given.scores.std()  # of rounding; a reward that is exactly linear leaves nothing else
    found = weights @ given.scores
    left = given.scores - design @ found
    found[abs(found) < dust], left[abs(left) < dust] = 0.0, 0.0
    return [_symmetric(float(value), weight * left, given.clusters) for value, weight in zip(found[1:], weights[1:], strict=True)]


def _quantile(clusters: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, clusters - 1))


def _symmetric(value: float, influences: Array, clusters: Array) -> Estimate:
    error, count = clustered_error(influences, clusters)
    half = _quantile(count) * error
    return Estimate(value, value - half, value + half)


def _share_below(values: Array, others: Array) -> Array:
    """Of each value the share of the others that it is above; ties count half."""
    ordered = np.sort(others)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(ordered))
