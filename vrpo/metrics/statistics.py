"""Statistics of reports, studies, benchmarks and audits: intervals, interquartile means, paired differences, areas, pass@k, shares of a headroom."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

RESAMPLES = 9999
Seed = Hashable  # whatever names what two results share


def interval(values: list[float], confidence: float) -> dict[str, Any]:
    """Mean of independent values with its Student t interval; `ci95` is None for fewer than two values."""
    from scipy import stats

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return {"mean": mean, "ci95": None, "n": count}
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    return {"mean": mean, "ci95": [mean - half, mean + half], "n": count}


def bootstrap(values: Sequence[float], confidence: float = 0.95) -> list[float] | None:
    """Bias-corrected accelerated bootstrap interval (Efron 1987) of the mean of independent values; None for fewer than three.

    Of few values it is too narrow: a 95 % interval covers the mean of about 70 % of samples of three, 83 % of five, 91 % of fourteen.
    """
    from scipy import stats

    if len(values) < 3:
        return None
    if len(set(values)) == 1:
        return [values[0], values[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples of few values: the percentile interval is taken then
        for method in ("BCa", "percentile"):
            found = stats.bootstrap(
                (np.asarray(values),), np.mean, confidence_level=confidence, n_resamples=RESAMPLES, method=method, rng=0
            ).confidence_interval
            if np.isfinite(found).all():
                break
    return [float(found.low), float(found.high)]


def clustered_error(influences: Any, clusters: Any) -> tuple[float, int]:
    """Standard error of an estimate whose observations come in clusters (CR1), and the number of clusters, of which there are two or more.

    Args:
        influences: [N] what each observation moves the estimate by; of a mean (y - mean) / N.
        clusters: [N] integers from 0; observations of different clusters are independent.
    """
    sums = np.bincount(clusters, influences)[np.unique(clusters)]
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum())), len(sums)


def wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` independent cases, which may be an effective number and so need not be whole."""
    shrunk = 1 + quantile**2 / count
    middle = (share + quantile**2 / (2 * count)) / shrunk
    half = quantile / shrunk * math.sqrt(share * (1 - share) / count + quantile**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half (Agarwal et al. 2021): robust as the median, less wasteful."""
    from scipy import stats

    return float(stats.trim_mean(values, 0.25))


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, interquartile mean, bootstrap interval of the mean, number of values."""
    return {
        "mean": float(np.mean(values)),
        "iqm": interquartile_mean(values),
        "ci95": bootstrap(values),
        "n": len(values),
    }


def paired(a: dict[Seed, float], b: dict[Seed, float]) -> dict[str, Any] | None:
    """Mean of a - b over the seeds that both have, with its bootstrap interval, the lowest of them, how often a is higher, and the two-sided
    sign test's p without ties, which one collapsed run cannot move far; None without a common seed."""
    from scipy import stats

    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    differences = [a[seed] - b[seed] for seed in seeds]
    wins, losses = sum(difference > 0 for difference in differences), sum(difference < 0 for difference in differences)
    return {
        "mean": float(np.mean(differences)),
        "ci95": bootstrap(differences),
        "worst": min(differences),
        "wins": wins,
        "sign_p": float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        "n": len(seeds),
    }


def headroom_share(method: dict[Seed, float], floor: dict[Seed, float], ceiling: dict[Seed, float]) -> dict[str, Any] | None:
    """(mean method - mean floor) / (mean ceiling - mean floor) over common seeds, with a bootstrap interval that resamples seeds; None
    where fewer than three seeds are common or the interval of the headroom reaches zero: a share of what may be nothing has no bounds."""
    from scipy import stats

    seeds = sorted(method.keys() & floor.keys() & ceiling.keys())
    rows = [np.array([values[seed] for seed in seeds]) for values in (method, floor, ceiling)]
    headroom = bootstrap(list(rows[2] - rows[1]))
    if headroom is None or headroom[0] <= 0:
        return None

    def share(m: Any, low: Any, high: Any, axis: int = -1) -> Any:
        return (m.mean(axis) - low.mean(axis)) / (high.mean(axis) - low.mean(axis))

    with np.errstate(divide="ignore", invalid="ignore"):  # rare resamples without headroom
        found = stats.bootstrap(rows, share, paired=True, vectorized=True, n_resamples=RESAMPLES, method="percentile", rng=0)
    ci95 = [float(bound) for bound in found.confidence_interval]
    return {"mean": float(share(*rows)), "ci95": ci95, "n": len(seeds)} if np.isfinite(ci95).all() else None


def area(curve: tuple[list[float], list[float]], low: float, high: float) -> float:
    """Mean height of a piecewise linear curve between two x values (area under the curve over its width)."""
    x = np.unique([low, high, *(value for value in curve[0] if low < value < high)])
    y = np.interp(x, *curve)
    return float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)) / (high - low))


def pass_at(k: int, correct: int, samples: int) -> float:
    """Unbiased chance that at least one of `k` samples is right, from `correct` of `samples` (Chen et al. 2021, equation 1)."""
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
