"""GAE and group advantages against independent float64 references written from the equations."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vrpo.algorithms.advantages import compute_gae, group_relative_advantages, leave_one_out_advantages, length_adaptive_lambda


def reference_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum_l (gamma lam)^l delta_{t+l} on one gapless sequence, as the double sum it is."""
    ends = [*values[1:], 0.0][: len(values)]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, ends, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


@st.composite
def ragged_batches(draw):
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    number = st.floats(-3, 3, allow_nan=False)
    table = st.lists(st.lists(number, min_size=width, max_size=width), min_size=rows, max_size=rows)
    mask = draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=rows, max_size=rows))
    lambdas = draw(st.lists(st.floats(0, 1), min_size=rows, max_size=rows))
    return draw(table), draw(table), mask, draw(st.floats(0.5, 1)), lambdas


@given(ragged_batches())
@settings(max_examples=60, deadline=None)
def test_gae_equals_the_double_sum_with_gaps_taken_out(batch) -> None:
    """One lambda for all rows, and one for each row."""
    rewards, values, mask, gamma, lambdas = batch
    spoilt_rewards, spoilt_values = torch.tensor(rewards, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    keep = torch.tensor(mask)
    spoilt_rewards[~keep], spoilt_values[~keep] = 999.0, math.nan
    same = compute_gae(spoilt_rewards, spoilt_values, keep, gamma, lambdas[0])
    own = compute_gae(spoilt_rewards, spoilt_values, keep, gamma, torch.tensor(lambdas, dtype=torch.float64))
    for row, kept in enumerate(mask):
        places = [t for t, here in enumerate(kept) if here]
        for result, lam in ((same, lambdas[0]), (own, lambdas[row])):
            expected = reference_gae([rewards[row][t] for t in places], [values[row][t] for t in places], gamma, lam)
            assert result[row, places].tolist() == pytest.approx(expected, abs=1e-9)
            assert result[row, [t for t, here in enumerate(kept) if not here]].abs().sum() == 0


def test_lambda_one_target_is_the_return_whatever_the_values() -> None:
    rewards, mask = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    for values in (torch.zeros(1, 3), torch.tensor([[5.0, -2.0, 0.3]])):
        assert torch.allclose(compute_gae(rewards, values, mask, 1.0, 1.0) + values, torch.ones(1, 3))


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=12, max_size=12), st.floats(0.1, 5), st.floats(-3, 3))
@settings(max_examples=40, deadline=None)
def test_group_advantages_ignore_affine_changes_of_the_reward(scores, scale, shift) -> None:
    plain = group_relative_advantages(torch.tensor(scores, dtype=torch.float64), 4)
    changed = group_relative_advantages(torch.tensor(scores, dtype=torch.float64) * scale + shift, 4)
    assert torch.allclose(plain, changed, atol=1e-4)


@st.composite
def scored_groups(draw):
    groups, size = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    count = groups * size
    scores = draw(st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=count, max_size=count))
    return size, scores, draw(st.lists(st.booleans(), min_size=count, max_size=count))


@given(scored_groups())
@settings(max_examples=60, deadline=None)
def test_advantages_without_critic_equal_their_equations(batch) -> None:
    size, scores, scored = batch
    spoilt = torch.tensor([score if known else math.nan for score, known in zip(scores, scored, strict=True)], dtype=torch.float64)
    known = torch.tensor(scored)
    grpo, dr_grpo = (group_relative_advantages(spoilt, size, known, scale=scale) for scale in (True, False))
    rloo = leave_one_out_advantages(spoilt, size, known)
    for index, score in enumerate(scores):
        start = index - index % size
        group = [scores[i] for i in range(start, start + size) if scored[i]]
        if not scored[index]:
            assert grpo[index] == dr_grpo[index] == rloo[index] == 0
            continue
        mean, others = statistics.fmean(group), [scores[i] for i in range(start, start + size) if scored[i] and i != index]
        std = statistics.stdev(group) if len(group) > 1 else 0.0
        spread = max(group) - min(group)
        assert dr_grpo[index].item() == pytest.approx(score - mean, abs=1e-9)
        assert grpo[index].item() == pytest.approx((score - mean) / (std + 1e-6 * spread) if spread else 0.0, abs=1e-9)
        assert rloo[index].item() == pytest.approx(score - statistics.fmean(others) if others else 0.0, abs=1e-9)


def test_length_adaptive_lambda_by_hand() -> None:
    lengths = torch.tensor([[True] * 10 + [False] * 10, [True] * 20, [True] + [False] * 19])
    assert length_adaptive_lambda(lengths, 0.5).tolist() == pytest.approx([1 - 1 / 5, 1 - 1 / 10, 0.0])


def test_group_advantages_by_hand() -> None:
    result = group_relative_advantages(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]), 4)
    assert result[:4].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-4)  # std with n - 1 is 0.5
    assert result[4:].tolist() == [0.0] * 4


def test_unscored_rows_enter_no_group_statistic() -> None:
    scores = torch.tensor([1.0, 0.0, 777.0, 1.0, 0.0, 1.0])
    scored = torch.tensor([True, True, False, True, True, True])
    result = group_relative_advantages(scores, 3, scored)
    assert result[2] == 0
    assert result[:2].tolist() == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-4)


@pytest.mark.parametrize(("rows", "group"), [(4, 1), (5, 2)])
def test_impossible_groups_are_refused(rows: int, group: int) -> None:
    with pytest.raises(ValueError, match="group_size"):
        group_relative_advantages(torch.zeros(rows), group)


def test_reinforce_subtracts_the_batch_mean_over_tokens() -> None:
    from vrpo.algorithms.reinforce import Reinforce
    from vrpo.config import TrainConfig
    from vrpo.data.batch import Experience

    mask = torch.tensor([[True, True, True], [True, False, False]])
    tokens = torch.ones(2, 3, dtype=torch.long)
    experience = Experience(tokens, tokens.bool(), tokens, mask, torch.zeros(2, 3))
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 999.0, float("nan")]])
    advantages, targets = Reinforce(TrainConfig(), torch.nn.Linear(1, 1), 0).advantages(experience, rewards)
    assert advantages.tolist() == [[0.25, 0.25, 0.25], [-0.75, 0.0, 0.0]] and targets is None  # three tokens of four return 1
