"""Losses, KL terms and masked statistics against references."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from vrpo.algorithms.losses import clipped, kl_k1, kl_k3, policy_loss
from vrpo.critics.losses import gaussian_kl, value_loss
from vrpo.data.masking import masked_mean, masked_sum, masked_var, masked_whiten

NUMBER = st.floats(-2, 2)
TOKENS = st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), min_size=1, max_size=12)


@given(TOKENS, st.floats(0.05, 0.5))
@settings(max_examples=60, deadline=None)
def test_losses_equal_their_equations_in_float64(tokens, clip) -> None:
    """Each token by itself, in Python's float64, from the equations: cases instead of minimum and clamp."""
    new, old, advantages, other = torch.tensor(tokens, dtype=torch.float64).T
    expected_policy, expected_value, expected_clipped_value, expected_k3 = [], [], [], []
    for a, b, advantage, target in tokens:
        ratio = math.exp(a - b)
        limit = 1 + clip if advantage >= 0 else 1 - clip
        worse = ratio > limit if advantage >= 0 else ratio < limit
        expected_policy.append(-(limit if worse else ratio) * advantage)
        expected_value.append((a - target) ** 2)
        moved = b + max(-clip, min(clip, a - b))
        expected_clipped_value.append(max((a - target) ** 2, (moved - target) ** 2))
        expected_k3.append(math.exp(target - a) - 1 - (target - a))
    assert policy_loss(new, old, advantages, clip).tolist() == pytest.approx(expected_policy, abs=1e-9)
    assert value_loss(new, other).tolist() == pytest.approx(expected_value, abs=1e-9)
    assert value_loss(new, other, old, clip).tolist() == pytest.approx(expected_clipped_value, abs=1e-9)
    assert kl_k3(new, other).tolist() == pytest.approx(expected_k3, abs=1e-9)


def test_policy_loss_by_hand() -> None:
    old = torch.zeros(1, 4)
    logprobs = torch.log(torch.tensor([[1.5, 1.5, 0.5, 0.5]]))
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    assert policy_loss(logprobs, old, advantages, 0.2)[0].tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])
    assert clipped(logprobs, old, advantages, 0.2)[0].tolist() == [True, False, False, True]


def test_clipped_is_where_the_gradient_is_gone() -> None:
    torch.manual_seed(0)
    logprobs = (0.5 * torch.randn(5, 7)).requires_grad_()
    old, advantages = 0.5 * torch.randn(5, 7), torch.randn(5, 7)
    policy_loss(logprobs, old, advantages).sum().backward()
    assert torch.equal(logprobs.grad == 0, clipped(logprobs, old, advantages))


def test_value_loss_clipping_takes_the_larger_error() -> None:
    values, returns = torch.tensor([1.0, 0.3]), torch.tensor([0.0, 0.0])
    assert value_loss(values, returns).tolist() == pytest.approx([1.0, 0.09])
    assert value_loss(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([1.0]), 0.2).tolist() == pytest.approx([0.64])


def test_gaussian_kl_equals_torch_distributions_and_sums_before_averaging() -> None:
    torch.manual_seed(0)
    mu, log_variance = torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    expected = kl_divergence(Normal(mu, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    assert torch.allclose(gaussian_kl(mu, log_variance), expected, atol=1e-5)
    assert gaussian_kl(torch.tensor([5.0, -5.0]), torch.zeros(2)) == 25.0


def test_kl_estimators_have_the_right_expectation() -> None:
    torch.manual_seed(0)
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    k1, k3 = kl_k1(p.log(), q.log()), kl_k3(p.log(), q.log())
    exact = (p * (p / q).log()).sum()
    assert (p * k1).sum() == pytest.approx(exact.item(), abs=1e-6)
    assert (p * k3).sum() == pytest.approx(exact.item(), abs=1e-6)
    assert (k3 >= 0).all()


@pytest.mark.parametrize("garbage", [999.0, math.nan, math.inf])
def test_masked_garbage_never_leaks(garbage: float) -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = torch.tensor([[1.0, 2.0, garbage], [6.0, garbage, garbage]], requires_grad=True)
    assert masked_sum(values, mask) == 9.0
    assert masked_mean(values, mask) == 3.0
    assert masked_var(values, mask).item() == pytest.approx(14 / 3)
    white = masked_whiten(values, mask)
    assert white[mask].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert white[mask].var(unbiased=False).item() == pytest.approx(1.0, abs=1e-4)
    assert (white[~mask] == 0).all()
    masked_mean(values, mask).backward()
    assert torch.equal(values.grad, mask / 3)


def test_micro_batch_means_add_up_to_the_batch_mean() -> None:
    torch.manual_seed(0)
    values, mask = torch.randn(6, 5), torch.rand(6, 5) < 0.6
    parts = sum(masked_mean(values[i : i + 2], mask[i : i + 2], mask.sum()) for i in (0, 2, 4))
    assert parts.item() == pytest.approx(masked_mean(values, mask).item(), abs=1e-6)
