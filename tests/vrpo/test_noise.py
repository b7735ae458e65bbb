"""Noise: right rates, no dependence on order, honest confusion matrix."""

import math
from pathlib import Path

import pytest

from vrpo.errors import UserError
from vrpo.rewards import noise
from vrpo.rewards.labels import confusion, majority_vote
from vrpo.rewards.noise import Noise, NoiseChannel
from vrpo.rewards.noise.flip import Flip
from vrpo.rewards.noise.heavy_tail import HeavyTail
from vrpo.rewards.noise.prompt_flip import PromptFlip

EXAMPLES = {"flip": {"false_positive": 0.2, "false_negative": 0.005}, "prompt_flip": {"rate": 0.125}, "heavy_tail": {"scale": 0.3}}
# What seed 5 made of eight rewards when channels were functions of `label`.
FLIPS = [0.0, 1.0, 0.0, 0.0, None, 1.0, 0.0, 0.0]
TAILS = [-0.062920742, 0.966579329, -0.657415173, 1.185080387, None, 0.961350425, 0.1602002, 1.065026629]


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
    channel, ids = Noise([PromptFlip(rate=0.3)], seed=0), [str(i) for i in range(20_000)]
    first = channel([1.0] * 20_000, step=0, ids=ids, samples=[0] * 20_000)
    assert 1 - sum(first) / 20_000 == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20_000))
    assert channel([1.0] * 20_000, step=9, ids=ids, samples=[5] * 20_000) == first
    assert channel([0.0] * 20_000, step=9, ids=ids, samples=[5] * 20_000) == [1.0 - reward for reward in first]
    assert Noise([PromptFlip(rate=0.3)], seed=1)([1.0] * 20_000, step=0, ids=ids, samples=[0] * 20_000) != first


def test_heavy_tails_are_those_of_students_t() -> None:
    from scipy.stats import kstest, t

    channel, count = Noise([HeavyTail(scale=0.5)], seed=0), 5000
    key = {"step": 1, "ids": [str(i) for i in range(count)], "samples": [0] * count}
    noisy = channel([1.0] * count, **key)
    assert kstest([(reward - 1.0) / 0.5 for reward in noisy], t(2.0).cdf).pvalue > 0.01
    assert channel([1.0] * count, **key) == noisy and channel([None], step=1, ids=["0"], samples=[0]) == [None]


def test_channels_compose_in_order() -> None:
    up, down = Flip(false_positive=1.0), Flip(false_negative=1.0)
    key = {"step": 0, "ids": ["a", "b"], "samples": [0, 0]}
    assert Noise([up, down], 0)([0.0, 1.0], **key) == [0.0, 0.0]
    assert Noise([down, up], 0)([0.0, 1.0], **key) == [1.0, 1.0]
    assert Noise([], 0)([0.0, None], **key) == [0.0, None]


def test_a_channel_that_stands_there_twice_draws_anew() -> None:
    """With the same draws the second flip would undo the first: nothing would be flipped."""
    half, count = Flip(false_positive=0.5, false_negative=0.5), 2000
    key = {"step": 0, "ids": [str(i) for i in range(count)], "samples": [0] * count}
    twice = Noise([half, half], 0)([0.0] * count, **key)
    assert sum(twice) / count == pytest.approx(0.5, abs=0.05) and twice != NoiseChannel(0.5, 0.5, seed=0)([0.0] * count, **key)


def test_flips_are_those_of_always() -> None:
    """Studies of before are continued: the draws of a key must never change."""
    key = {"step": 3, "ids": list("abcdefgh"), "samples": [0, 1, 2, 3, 0, 1, 2, 3]}
    clean = [0.0, 1.0, 0.0, 1.0, None, 1.0, 0.0, 1.0]
    flips = Noise([PromptFlip(rate=0.3), Flip(false_positive=0.3, false_negative=0.4)], seed=5)(clean, **key)
    assert flips == FLIPS
    tails = Noise([HeavyTail(scale=0.1, degrees=2.0)], seed=5)(clean, **key)
    assert [value and round(value, 9) for value in tails] == TAILS


def test_every_module_of_the_package_brings_a_channel_that_tells_what_it_is() -> None:
    found = {kind.model_fields["kind"].default: kind for kind in noise.CHANNELS}
    assert found.keys() == {path.stem for path in Path(noise.__file__).parent.glob("*.py")} - {"__init__", "base"}
    said = {kind: found[kind](**values).describe() for kind, values in EXAMPLES.items()}
    assert said == {
        "flip": "flips 0 to 1 (20 %) and 1 to 0 (0.5 %)",
        "prompt_flip": "12.5 % of the problems inverted",
        "heavy_tail": "heavy tails of 0.3 in units of reward (Student's t, 2 degrees of freedom)",
    }
    assert str(Flip(false_positive=0.2)) == "{kind: flip, false_positive: 0.2, false_negative: 0.0}"


def test_rewards_of_turns_are_not_made_noisy_in_silence() -> None:
    with pytest.raises(UserError, match="one number a turn and noise acts on one a response"):
        NoiseChannel(0.5, 0.5, seed=0)([[0.5, 0.5], 1.0], step=0, ids=["a", "b"], samples=[0, 0])


def test_learned_rewards_are_flipped_to_their_opposite_and_counted_by_their_means() -> None:
    key = {"step": 0, "ids": ["a", "b", "c"], "samples": [0] * 3}
    learned = [0.9, 0.2, None]
    assert NoiseChannel(0.0, 1.0, seed=0)(learned, **key) == pytest.approx([0.1, 0.2, None])
    assert NoiseChannel(1.0, 0.0, seed=0)(learned, **key) == pytest.approx([0.9, 0.8, None])
    assert Noise([PromptFlip(rate=1.0)], 0)(learned, **key) == pytest.approx([0.1, 0.8, None])
    found = confusion([0.9, 0.7, 0.3, 0.1, 0.2], [1.0, 1.0, 1.0, 0.0, 0.0])
    assert found["true_positive_rate"] == pytest.approx(1.9 / 3) and found["false_positive_rate"] == pytest.approx(0.15)
    below = confusion([-0.7, -0.7, 0.3], [1.0, 0.0, 1.0])  # corrected: values of 0.3 and -0.7 are no misses
    assert below["youden_j"] == pytest.approx(0.5)


def test_a_reward_without_an_opposite_is_not_flipped_in_silence() -> None:
    key = {"step": 0, "ids": ["a"], "samples": [0]}
    for channel in (NoiseChannel(1.0, 1.0, seed=0), Noise([PromptFlip(rate=1.0)], 0)):
        with pytest.raises(UserError, match=r"reward of 5 \(problem 'a'\) cannot be flipped"):
            channel([5.0], **key)
