"""Noise: right rates, no dependence on order, honest confusion matrix."""

import math

import pytest

from vrpo.errors import UserError
from vrpo.rewards.noise import HeavyTail, NoiseChannel, PromptFlip, compose, confusion, majority_vote


def test_flips_hit_their_rates() -> None:
    channel = NoiseChannel(0.1, 0.3, seed=0)
    clean = [0.0] * 20_000 + [1.0] * 20_000
    observed = channel(clean, step=1, ids=[str(i) for i in range(40_000)], samples=[0] * 40_000)
    measured = confusion(observed, clean)
    assert measured["false_positive_rate"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20_000))
    assert measured["true_positive_rate"] == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 20_000))


def test_a_flip_depends_on_its_key_alone() -> None:
    channel, ids = NoiseChannel(0.5, 0.5, seed=0), [str(i) for i in range(64)]
    forward = channel([1.0] * 64, step=3, ids=ids, samples=[0] * 64)
    backward = channel([1.0] * 64, step=3, ids=ids[::-1], samples=[0] * 64)[::-1]
    assert forward == backward
    for changed in ({"step": 4, "samples": [0] * 64}, {"step": 3, "samples": [1] * 64}):
        assert channel([1.0] * 64, ids=ids, **changed) != forward
    assert NoiseChannel(0.5, 0.5, seed=1)([1.0] * 64, step=3, ids=ids, samples=[0] * 64) != forward


def test_unscored_stays_unscored() -> None:
    assert NoiseChannel(1.0, 1.0, seed=0)([None, 1.0, 0.0], step=0, ids=list("abc"), samples=[0] * 3) == [None, 0.0, 1.0]


def test_majority_vote_counts_only_answers_and_breaks_ties_by_order() -> None:
    assert majority_vote(["4", None, "4", "7"]) == ("4", 0.5)
    assert majority_vote(["7", "4"]) == ("7", 0.5)
    assert majority_vote([None, None]) == (None, 0.0)


def test_confusion_by_hand() -> None:
    result = confusion([1.0, 0.0, 1.0, None, 1.0], [1.0, 1.0, 0.0, 1.0, None])
    assert result == {"true_positive_rate": 0.5, "false_positive_rate": 1.0, "youden_j": -0.5, "accuracy": 1 / 3, "scored": 0.8}


def test_a_prompt_flip_inverts_a_share_of_problems_in_every_step() -> None:
    channel, ids = PromptFlip(0.3, seed=0), [str(i) for i in range(20_000)]
    first = channel([1.0] * 20_000, step=0, ids=ids, samples=[0] * 20_000)
    assert 1 - sum(first) / 20_000 == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20_000))
    assert channel([1.0] * 20_000, step=9, ids=ids, samples=[5] * 20_000) == first
    assert channel([0.0] * 20_000, step=9, ids=ids, samples=[5] * 20_000) == [1.0 - reward for reward in first]
    assert PromptFlip(0.3, seed=1)([1.0] * 20_000, step=0, ids=ids, samples=[0] * 20_000) != first


def test_heavy_tails_are_those_of_students_t() -> None:
    from scipy.stats import kstest, t

    channel, count = HeavyTail(0.5, 2.0, seed=0), 5000
    key = {"step": 1, "ids": [str(i) for i in range(count)], "samples": [0] * count}
    noisy = channel([1.0] * count, **key)
    assert kstest([(reward - 1.0) / 0.5 for reward in noisy], t(2.0).cdf).pvalue > 0.01
    assert channel([1.0] * count, **key) == noisy and channel([None], step=1, ids=["0"], samples=[0]) == [None]


def test_channels_compose_in_order() -> None:
    up, down = NoiseChannel(1.0, 0.0, seed=0), NoiseChannel(0.0, 1.0, seed=0)
    key = {"step": 0, "ids": ["a", "b"], "samples": [0, 0]}
    assert compose(up, down)([0.0, 1.0], **key) == [0.0, 0.0]
    assert compose(down, up)([0.0, 1.0], **key) == [1.0, 1.0]
    assert compose()([0.0, None], **key) == [0.0, None]


def test_learned_rewards_are_flipped_to_their_opposite_and_counted_by_their_means() -> None:
    key = {"step": 0, "ids": ["a", "b", "c"], "samples": [0] * 3}
    learned = [0.9, 0.2, None]
    assert NoiseChannel(0.0, 1.0, seed=0)(learned, **key) == pytest.approx([0.1, 0.2, None])
    assert NoiseChannel(1.0, 0.0, seed=0)(learned, **key) == pytest.approx([0.9, 0.8, None])
    assert PromptFlip(1.0, seed=0)(learned, **key) == pytest.approx([0.1, 0.8, None])
    found = confusion([0.9, 0.7, 0.3, 0.1, 0.2], [1.0, 1.0, 1.0, 0.0, 0.0])
    assert found["true_positive_rate"] == pytest.approx(1.9 / 3) and found["false_positive_rate"] == pytest.approx(0.15)
    below = confusion([-0.7, -0.7, 0.3], [1.0, 0.0, 1.0])  # corrected: values of 0.3 and -0.7 are no misses
    assert below["youden_j"] == pytest.approx(0.5)


def test_a_reward_without_an_opposite_is_not_flipped_in_silence() -> None:
    key = {"step": 0, "ids": ["a"], "samples": [0]}
    for channel in (NoiseChannel(1.0, 1.0, seed=0), PromptFlip(1.0, seed=0)):
        with pytest.raises(UserError, match=r"reward of 5 \(problem 'a'\) cannot be flipped"):
            channel([5.0], **key)
