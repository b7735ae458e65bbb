"""Intervals of studies cover what they should."""

import numpy as np
import pytest

from vrpo.metrics.statistics import bootstrap, headroom_share, interquartile_mean, paired, summary


@pytest.mark.parametrize(("count", "at_least", "at_most"), [(5, 0.76, 0.9), (14, 0.86, 0.97), (20, 0.88, 0.98)])
def test_bootstrap_intervals_cover_the_mean(monkeypatch, count, at_least, at_most) -> None:
    """95 % of many values; less of few skewed ones, as `bootstrap` and the reports say."""
    monkeypatch.setattr("vrpo.metrics.statistics.RESAMPLES", 999)
    draws = np.random.default_rng(0).gamma(2.0, 1.0, size=(300, count))  # skewed, mean 2
    found = [bootstrap(row.tolist()) for row in draws]
    coverage = np.mean([low <= 2.0 <= high for low, high in found])
    assert at_least <= coverage <= at_most
    narrow = np.mean([high - low for low, high in (bootstrap(row.tolist(), confidence=0.5) for row in draws[:20])])
    assert narrow < 0.6 * np.mean([high - low for low, high in found[:20]])


def test_few_or_equal_values() -> None:
    assert bootstrap([1.0, 2.0]) is None and bootstrap([0.5] * 4) == [0.5, 0.5]


def test_interquartile_mean_ignores_the_outer_halves() -> None:
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 1000]) == pytest.approx(3.5)
    assert summary([0, 1, 2, 3, 4, 5, 6, 1000.0])["iqm"] == pytest.approx(3.5)


def test_pairs_use_common_seeds_only() -> None:
    result = paired({0: 0.9, 1: 0.7, 2: 0.8, 5: 0.0}, {0: 0.8, 1: 0.8, 2: 0.5, 7: 1.0})
    assert result["mean"] == pytest.approx(0.1) and (result["wins"], result["n"]) == (2, 3)
    assert paired({0: 1.0}, {1: 1.0}) is None
    one_sided = paired(dict.fromkeys(range(8), 0.0) | {8: 1.0}, dict.fromkeys(range(8), 0.1) | {8: 1.0})  # eight losses and a tie
    assert one_sided["sign_p"] == pytest.approx(2 / 2**8)


def test_headroom_share_of_a_method_half_way() -> None:
    floor = {seed: 0.4 + 0.01 * seed for seed in range(5)}
    ceiling = {seed: value + 0.2 for seed, value in floor.items()}
    method = {seed: value + 0.1 for seed, value in floor.items()}
    result = headroom_share(method, floor, ceiling)
    assert result["mean"] == pytest.approx(0.5) and result["ci95"] == pytest.approx([0.5, 0.5])
    assert headroom_share(method, ceiling, floor) is None


def test_no_share_of_a_headroom_that_may_be_nothing() -> None:
    floor, method = dict.fromkeys(range(5), 0.4), dict.fromkeys(range(5), 0.45)
    gaps = dict(enumerate([0.1, -0.09, 0.05, 0.0, 0.01]))  # positive on average only
    assert headroom_share(method, floor, {seed: 0.4 + gap for seed, gap in gaps.items()}) is None
    # A resample of the last seed alone has no headroom: the interval stays finite or there is none.
    gaps = dict(enumerate([0.1, 0.1, 0.1, 0.1, 0.0]))
    assert headroom_share(floor, floor, {seed: 0.4 + gap for seed, gap in gaps.items()}) is None
    result = headroom_share(method, floor, {seed: 0.4 + gap for seed, gap in gaps.items()})
    assert np.isfinite(result["ci95"]).all() and result["ci95"][0] <= result["mean"] == pytest.approx(0.05 / 0.08)
