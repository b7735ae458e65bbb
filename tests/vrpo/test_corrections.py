"""Corrections: unbiased where they promise it, and without effect on rewards that are normalised within a group."""

import math

import pytest
import torch

from vrpo.algorithms.advantages import group_relative_advantages
from vrpo.errors import UserError
from vrpo.rewards.corrections import FlipRates, backward_correction, estimate_rates, forward_correction
from vrpo.rewards.noise import Noise, NoiseChannel
from vrpo.rewards.noise.flip import Flip
from vrpo.rewards.noise.heavy_tail import HeavyTail
from vrpo.rewards.noise.prompt_flip import PromptFlip

COUNT = 40_000
RATES = FlipRates(0.1, 0.3)


def flipped(clean: list[float]) -> list[float | None]:
    channel = NoiseChannel(RATES.false_positive, RATES.false_negative, seed=0)
    return channel(clean, step=0, ids=[str(i) for i in range(len(clean))], samples=[0] * len(clean))


@pytest.mark.parametrize(
    ("correct", "expected"), [(backward_correction, {0.0: 0.0, 1.0: 1.0}), (forward_correction, {0.0: -RATES.signal, 1.0: 0.0})]
)
def test_expectation_over_flips(correct, expected: dict[float, float]) -> None:
    for clean, mean in expected.items():
        corrected = correct(flipped([clean] * COUNT), RATES)
        assert sum(corrected) / COUNT == pytest.approx(mean, abs=5 / math.sqrt(COUNT))


def test_estimated_rates_come_close_and_say_how_many_were_checked() -> None:
    clean = [float(i % 3 == 0) for i in range(COUNT)]
    rates = estimate_rates(flipped(clean), clean)
    assert (rates.false_positive, rates.false_negative) == pytest.approx((0.1, 0.3), abs=0.02)
    assert rates.checked == COUNT and estimate_rates([None, 1.0, 0.0], [1.0, 1.0, 0.0]).checked == 2


def test_impossible_rates_are_named() -> None:
    with pytest.raises(UserError, match="0 of 2 checked samples are right"):
        estimate_rates([0.0, 1.0], [0.0, 0.0])
    with pytest.raises(UserError, match="carry no signal"):
        backward_correction([1.0], FlipRates(0.6, 0.5))


def test_corrections_change_nothing_in_z_scored_groups_and_keep_unscored() -> None:
    observed = flipped([float(i % 2) for i in range(64)])
    plain = group_relative_advantages(torch.tensor(observed), 8)
    for correct in (backward_correction, forward_correction):
        corrected = correct(observed, RATES)
        assert corrected != observed
        assert torch.allclose(group_relative_advantages(torch.tensor(corrected), 8), plain, atol=1e-5)
        assert correct([None], RATES) == [None]


@pytest.mark.parametrize("inverted", [0.0, 0.15, 0.6])
def test_known_rates_count_the_problems_that_are_inverted(inverted: float) -> None:
    channels = [PromptFlip(rate=inverted), Flip(false_positive=0.1, false_negative=0.3)]
    rates, channel = FlipRates.known([*channels, HeavyTail(scale=0.1)]), Noise(channels, seed=0)
    key = {"step": 0, "ids": [str(i) for i in range(COUNT)], "samples": [0] * COUNT}
    measured = {clean: sum(channel([clean] * COUNT, **key)) / COUNT for clean in (0.0, 1.0)}
    assert measured == pytest.approx({0.0: rates.false_positive, 1.0: 1 - rates.false_negative}, abs=3 / math.sqrt(COUNT))
    assert rates.signal == pytest.approx(RATES.signal * (1 - 2 * inverted))
    if inverted > 0.5:
        with pytest.raises(UserError, match="carry no signal"):
            backward_correction([1.0], rates)
    else:
        for clean in (0.0, 1.0):
            assert sum(backward_correction(channel([clean] * COUNT, **key), rates)) / COUNT == pytest.approx(clean, abs=0.03)


def test_checked_rates_undo_tails_and_learned_rewards_too() -> None:
    """They are means, so that what is corrected is right on average, whatever form the observed rewards have."""
    clean = [float(i % 2) for i in range(COUNT)]
    key = {"step": 0, "ids": [str(i) for i in range(COUNT)], "samples": [0] * COUNT}
    for observed in (Noise([HeavyTail(scale=0.4, degrees=5.0)], seed=0)(flipped(clean), **key), [0.3 + 0.2 * value for value in clean]):
        corrected = backward_correction(observed, estimate_rates(observed, clean))
        for value in (0.0, 1.0):
            assert 2 * sum(c for c, truth in zip(corrected, clean, strict=True) if truth == value) / COUNT == pytest.approx(value, abs=1e-6)
