"""The noise audit: on data with planted noise its figures are right within their intervals, and what it says follows from them."""

import math
import random
import sys
from statistics import NormalDist

import numpy as np
import pytest
import torch

from vrpo import NoiseChannel
from vrpo.errors import UserError
from vrpo.metrics.audit import audit, plot
from vrpo.metrics.estimates import Estimate

SEEDS = 100
PROMPTS = [f"problem {place // 4}" for place in range(240)]


def drawn_right(rng: np.random.Generator) -> np.ndarray:
    """Whether each of 240 responses is right, 60 % of them: problems are of different difficulty."""
    return rng.random(len(PROMPTS)) < np.repeat(rng.choice([0.4, 0.8], size=len(PROMPTS) // 4), 4)


def flipped_anew(rng: np.random.Generator):
    """TPR 0.8 and FPR 0.3, drawn for each scoring; length says nothing."""
    right = drawn_right(rng)
    texts = ["x" * count for count in rng.integers(20, 80, len(right))]
    truth = {"flips": 0.36, "within": 0.18, "between": 0.06, "reliability": 0.25, "true_positive_rate": 0.8, "false_positive_rate": 0.3}
    truth |= {"youden": 0.5, "rollouts": 4.0, "length": 0.0, "length_at_equal_correctness": 0.0, "worth": 0.5}
    return lambda prompts, responses: rng.random(len(right)) < np.where(right, 0.8, 0.3), texts, right, lambda found: truth


def inverted_prompts(rng: np.random.Generator):
    """A fifth of the problems has a wrong reference: each of its responses is scored the other way, every time."""
    right = drawn_right(rng)
    wrong = np.repeat(rng.random(len(right) // 4) < 0.2, 4)
    truth = {"flips": 0.0, "true_positive_rate": 0.8, "false_positive_rate": 0.2, "youden": 0.6, "worth": 0.6, "length": 0.0}
    truth |= {"rollouts": 0.56 * 0.44 / (0.24 * 0.36)}
    texts = ["x" * count for count in rng.integers(20, 80, len(right))]
    return lambda prompts, responses: (right ^ wrong).astype(float), texts, right, lambda found: truth


def graded(rng: np.random.Generator):
    """Being right is worth 1, a character 0.01; right responses are longer; a judge has moods about problems, responses and scorings."""
    right = drawn_right(rng)
    lengths = np.round(rng.normal(60 + 10 * right, 10)).clip(1)
    fixed = right + 0.01 * lengths + np.repeat(rng.normal(0, 0.3, len(right) // 4), 4) + rng.normal(0, 0.2, len(right))

    def truth(found):
        spread = 0.24 * 1.1**2 + 0.01 + 0.09 + 0.04
        return {
            "within": 0.16,
            "between": spread,
            "reliability": spread / (spread + 0.16),
            "youden": 2 * NormalDist().cdf(1.1 / math.sqrt(2 * (0.01 + 0.09 + 0.04 + 0.16))) - 1,
            "rollouts": (spread + 0.16) * 0.24 / (0.24 * 1.1) ** 2,
            "length": (0.01 + 10 * 0.24 / (100 + 100 * 0.24)) * found.length_deviation,
            "length_at_equal_correctness": 0.01 * found.length_deviation,
            "worth": 1.0,
        }

    return lambda prompts, responses: fixed + rng.normal(0, 0.4, len(right)), ["x" * int(count) for count in lengths], right, truth


@pytest.mark.parametrize("planted", [flipped_anew, inverted_prompts, graded])
def test_intervals_cover_what_was_planted(planted) -> None:
    """95 % of them do so; 90 % is two standard errors of 100 seeds below that."""
    hits: dict[str, list[bool]] = {}
    errors: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        reward, texts, right, truth = planted(np.random.default_rng(seed))
        found = audit(reward, PROMPTS, texts, checked=[bool(value) for value in right])
        for name, value in truth(found).items():
            estimate = getattr(found, name)
            assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12
            hits.setdefault(name, []).append(estimate.low - 1e-12 <= value <= estimate.high + 1e-12)
            errors.setdefault(name, []).append(estimate.value - value)
    coverage = {name: float(np.mean(found)) for name, found in hits.items()}
    assert min(coverage.values()) >= 0.9, coverage
    biased = {name: np.mean(found) / np.std(found) for name, found in errors.items() if np.std(found) > 1e-9}
    assert max(map(abs, biased.values())) < 0.35, biased  # no figure is off by more than a third of its own error


def test_few_checked_responses_widen_the_intervals_and_still_cover() -> None:
    narrow, wide, hits = [], [], []
    for seed in range(60):
        reward, texts, right, _ = flipped_anew(np.random.default_rng(seed))
        few = [bool(value) if place % 5 == 0 else None for place, value in enumerate(right)]
        found = audit(reward, PROMPTS, texts, checked=few)
        assert found.checked == 48 and found.right == sum(bool(value) for value in few)
        wide.append(found.youden.high - found.youden.low)
        hits.append(found.youden.low <= 0.5 <= found.youden.high)
        narrow.append(np.ptp([(e := audit(reward, PROMPTS, texts, checked=right).youden).low, e.high]))
    assert np.mean(hits) >= 0.9 and np.mean(wide) > 1.8 * np.mean(narrow)


def says(scores, texts=None, checked=None, prompts=PROMPTS, **options):
    texts = texts or [f"response {place}" for place in range(len(prompts))]
    return audit(lambda prompts, responses: scores, prompts, texts, checked=checked, **options)


RIGHT = [place % 3 > 0 for place in range(240)]


def test_a_perfect_reward_is_not_said_to_be_perfect_for_sure() -> None:
    found = says([float(right) for right in RIGHT], checked=RIGHT)
    assert found.youden.value == 1 and 0.8 < found.youden.low < 0.95
    assert found.rollouts.value == found.rollouts.low == 1 and 1.1 < found.rollouts.high < 1.6
    assert found.flips.value == 0 and 0 < found.flips.high < 0.1 and found.reliability.value == 1
    assert found.true_positive_rate.low > 0.9 and found.false_positive_rate.high < 0.1
    assert found.length_at_equal_correctness == Estimate(0.0, 0.0, 0.0)  # rounding is no taste for length
    assert len(found.advice) == 1 and "Any method" in found.advice[0]


def test_j_is_the_difference_of_the_rates_that_corrections_take() -> None:
    rng = random.Random(0)
    scores = [float(rng.random() < (0.7 if right else 0.4)) for right in RIGHT]
    found = says(scores, checked=RIGHT)
    assert found.youden.value == pytest.approx(found.true_positive_rate.value - found.false_positive_rate.value)
    assert found.flip_rates.signal == pytest.approx(found.youden.value) and found.flip_rates.checked == 480
    doubled = says([2 * score - 1 for score in scores], checked=RIGHT)  # two scores, whatever they are called
    assert (doubled.youden, doubled.true_positive_rate, doubled.flip_rates) == (found.youden, found.true_positive_rate, None)


def test_half_right_and_even_errors_cost_one_over_j_squared() -> None:
    right = [place % 2 == 0 for place in range(240)]
    found = says([float(value if place % 10 > 1 else not value) for place, value in enumerate(right)], checked=right)
    assert found.youden.value == pytest.approx(0.6) and found.rollouts.value == pytest.approx(1 / 0.36)


def test_the_method_follows_j_and_errors_that_stay_are_told_from_those_drawn_anew() -> None:
    rng = np.random.default_rng(0)
    right = np.array(RIGHT)

    def noisy(rate: float, anew: bool):
        fixed = rng.random(240) < rate
        return audit(lambda prompts, responses: right ^ (rng.random(240) < rate if anew else fixed), PROMPTS, PROMPTS, checked=RIGHT)

    first, *rest = noisy(0.35, anew=True).advice
    assert "Choose `regulated`" in first and "93.5" in first
    assert len(rest) == 1 and "change from scoring to scoring" in rest[0]
    _, *rest = noisy(0.3, anew=False).advice
    assert len(rest) == 1 and "Errors that stay" in rest[0]
    assert "J may be 0" in noisy(0.5, anew=True).advice[0] and math.isinf(noisy(0.5, anew=True).rollouts.high)
    assert "J may be 0" in noisy(1.0, anew=False).advice[0]


def test_a_taste_for_length_is_named_with_its_price() -> None:
    texts = ["x" * (10 + place * 7 % 40) for place in range(240)]
    (advice,) = says([right + 0.02 * len(text) for right, text in zip(RIGHT, texts, strict=True)], texts, RIGHT).advice[-1:]
    assert "likes longer" in advice and f"{100 * 0.02 * np.std([len(text) for text in texts], ddof=1):.0f} %" in advice
    (advice,) = says([right - 0.02 * len(text) for right, text in zip(RIGHT, texts, strict=True)], texts, RIGHT).advice[-1:]
    assert "likes shorter" in advice


def test_without_checks_only_repeatability_and_length_are_told() -> None:
    rng = np.random.default_rng(0)
    found = audit(lambda prompts, responses: rng.random(240) < 0.5, PROMPTS, ["x" * (place % 9) for place in range(240)])
    assert found.youden is found.worth is found.true_positive_rate is None and found.checked == 0
    assert abs(found.flips.value - 0.5) < 0.1 and found.length is not None and "Nobody checked" in found.advice[0]
    once = says([float(right) for right in RIGHT], repeats=1)
    assert once.flips is once.reliability is None and "scored once" in str(once)


def test_scorings_are_asked_as_iterations_so_that_our_noise_is_drawn_anew() -> None:
    channel = NoiseChannel(0.3, 0.3, seed=0)

    def reward(prompts, responses, *, id, step, samples):
        return channel([float(right) for right in RIGHT], step=step, ids=id, samples=samples)

    problems = [prompt.split()[1] for prompt in PROMPTS]
    found = audit(reward, PROMPTS, PROMPTS, checked=RIGHT, id=problems)
    assert found.flips.low <= 2 * 0.3 * 0.7 <= found.flips.high and found.flips.low > 0.3
    assert audit(reward, PROMPTS, PROMPTS, checked=RIGHT, id=problems) == found
    assert audit(reward, PROMPTS, PROMPTS, checked=RIGHT, id=problems, repeats=4).flips != found.flips


def test_torchs_generator_is_seeded_and_left_alone() -> None:
    def reward(completions):
        return torch.rand(len(completions))

    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = audit(reward, PROMPTS, PROMPTS, checked=RIGHT, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert audit(reward, PROMPTS, PROMPTS, checked=RIGHT, seed=1) == first != audit(reward, PROMPTS, PROMPTS, checked=RIGHT, seed=2)


def test_responses_that_could_not_be_scored_are_left_out() -> None:
    scores = [None if place % 6 == 0 else float(right) for place, right in enumerate(RIGHT)]
    found = says(scores, checked=RIGHT)
    assert found.unscored == pytest.approx(1 / 6) and found.youden.value == 1 and found.reliability.value == 1
    turns = says([[float(right), 0.0] for right in RIGHT], checked=RIGHT)  # a score a turn
    assert turns.youden.value == 1


def test_the_table_has_every_figure_and_the_plot_its_points() -> None:
    reward, texts, right, _ = flipped_anew(np.random.default_rng(0))
    found = audit(reward, PROMPTS, texts, checked=[bool(value) if place % 2 else None for place, value in enumerate(right)])
    text = str(found)
    assert len(found.figures) == 11 and all(f"{name}  " in text and str(estimate) in text for name, estimate in found.figures.items())
    assert all(advice.split()[0] in text for advice in found.advice) and max(map(len, text.splitlines())) <= 110
    figure = plot(found)
    left, middle = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["two scorings\ndisagree", "reliability", "TPR", "FPR", "J"]
    assert sum(len(points.get_offsets()) for points in middle.collections) == 240
    assert [label.get_text() for label in middle.get_legend().get_texts()] == ["right", "wrong", "not checked"]


def test_a_plot_without_matplotlib_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        plot(says([float(right) for right in RIGHT], checked=RIGHT))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checked": [True]}, "lists differ in length: prompts 240, responses 240, checked 1"),
        ({"checked": [True] * 240}, "240 checked responses are all right"),
        ({"checked": [False] + [None] * 239}, "1 checked responses are all wrong"),
        ({"repeats": 0}, "repeats = 0"),
        ({"prompts": ["one"] * 240}, "responses to 1 prompts"),
        ({"prompts": [], "responses": [], "checked": []}, "responses to 0 prompts"),
        ({"reward": lambda prompts, responses: [1.0] * len(responses)}, "the reward is 1 for every response"),
        ({"reward": lambda prompts, responses: [None] * len(responses)}, "None for all 240 responses of the audit"),
        ({"reward": lambda prompts, responses, answer: responses}, "wants answer"),
    ],
)
def test_what_cannot_be_audited_is_named(changes, message) -> None:
    given = {
        "reward": lambda prompts, responses: [float(right) for right in RIGHT],
        "prompts": PROMPTS,
        "responses": PROMPTS,
        "checked": RIGHT,
    }
    with pytest.raises(UserError, match=message):
        audit(**given | changes)
