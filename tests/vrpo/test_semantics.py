"""Entropy and perplexity losses: values, selection, chunking, gradients."""

import pytest
import torch

from vrpo.critics.semantics import response_statistics, semantic_losses, top_ratio_mask
from vrpo.models import lm_head
from vrpo.models.lm_head import LanguageModelHead


def naive(hidden, weight, targets):
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T)
    return distribution.entropy(), -distribution.log_prob(targets)


@pytest.mark.parametrize("chunk_elements", [1, 100, 10_000])
@pytest.mark.parametrize("frozen", [True, False])
def test_chunks_equal_the_naive_version_with_gradients(monkeypatch, chunk_elements: int, frozen: bool) -> None:
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 9, 8, requires_grad=True), torch.randn(50, 8, requires_grad=not frozen)
    responses, masks = torch.randint(0, 50, (3, 9)), (torch.rand(3, 9) < 0.6, torch.rand(3, 9) < 0.4)
    total, entropy_loss, perplexity_loss = semantic_losses(hidden, weight, responses, *masks, entropy_weight=0.3, perplexity_weight=0.7)
    entropy, surprisal = naive(hidden, weight, responses)
    expected = 0.3 * entropy[masks[0]].mean() + 0.7 * surprisal[masks[1]].mean()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert [entropy_loss.item(), perplexity_loss.item()] == pytest.approx(
        [entropy[masks[0]].mean().item(), surprisal[masks[1]].mean().item()]
    )
    inputs = (hidden,) if frozen else (hidden, weight)
    for ours, theirs in zip(
        torch.autograd.grad(3 * total, inputs, retain_graph=True), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        assert (ours - theirs).abs().max() < 1e-6
    assert (torch.autograd.grad(total, hidden)[0][~(masks[0] | masks[1])] == 0).all()


@pytest.mark.parametrize(("bias", "scale", "cap"), [(True, 1.0, None), (False, 0.0625, None), (False, 1.0, 3.0), (True, 2.0, 5.0)])
def test_bias_factor_and_soft_cap_are_in_the_losses_and_their_gradients(bias: bool, scale: float, cap: float | None) -> None:
    torch.manual_seed(0)
    hidden, weight, offset = torch.randn(3, 9, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True), torch.randn(50)
    offset = offset.requires_grad_() if bias else None
    responses, masks = torch.randint(0, 50, (3, 9)), (torch.rand(3, 9) < 0.6, torch.rand(3, 9) < 0.4)
    logits = scale * torch.nn.functional.linear(hidden, weight, offset)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    distribution = torch.distributions.Categorical(logits=logits)
    expected = 0.5 * distribution.entropy()[masks[0]].mean() - 0.5 * distribution.log_prob(responses)[masks[1]].mean()
    total, *_ = semantic_losses(hidden, LanguageModelHead(weight, offset, scale, cap), responses, *masks)
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    inputs = (hidden, weight, offset) if bias else (hidden, weight)
    for ours, theirs in zip(torch.autograd.grad(2 * total, inputs), torch.autograd.grad(2 * expected, inputs), strict=True):
        assert (ours - theirs).abs().max() < 1e-6


def test_float16_keeps_the_small_entries_of_the_gradient() -> None:
    """Of a million tokens in the optimiser batch each weighs a millionth, and most probabilities are small: 0 in float16."""
    torch.manual_seed(0)
    hidden, weight, counts = torch.randn(1, 20, 16), 0.3 * torch.randn(200, 16), (torch.tensor(1_000_000),) * 2
    responses, every = torch.randint(0, 200, (1, 20)), torch.ones(1, 20, dtype=torch.bool)
    gradients = []
    for enabled in (False, True):
        states = hidden.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
            total = semantic_losses(states, weight, responses, every, every, counts=counts)[0]
        gradients.append(torch.autograd.grad(total, states)[0])
    assert ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item() < 0.01


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 4, 3), (7, 3)))
    masks = torch.tensor([[True, True, False, True]]), torch.tensor([[False, True, False, True]])

    def loss(hidden, weight):
        return semantic_losses(hidden, weight, torch.tensor([[1, 5, 2, 0]]), *masks)[0]

    assert torch.autograd.gradcheck(loss, (hidden, weight), eps=1e-3, atol=1e-3, nondet_tol=0)  # statistics are float32


def test_statistics_land_on_their_tokens_and_padding_is_zero() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 4, 8), torch.randn(11, 8)
    responses, mask = torch.randint(0, 11, (2, 4)), torch.tensor([[True, True, False, False], [True, True, True, True]])
    expected = naive(hidden, weight, responses)
    for found, wanted in zip(response_statistics(hidden, weight, responses, mask), expected, strict=True):
        assert torch.allclose(found[mask], wanted[mask], atol=1e-5) and (found[~mask] == 0).all()


@pytest.mark.parametrize(("ratio", "kept"), [(1.0, 10), (0.8, 8), (0.5, 5), (0.2, 2), (0.0, 0)])
def test_top_ratio_keeps_the_largest(ratio: float, kept: int) -> None:
    values = torch.tensor([[3.0, 1.0, 4.0, 1.5, 9.0, 2.6], [5.0, 3.5, 8.0, 7.0, 99.0, 99.0]])
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    chosen = top_ratio_mask(values, mask, ratio)
    assert chosen.sum() == kept and not (chosen & ~mask).any()
    if 0 < kept < 10:
        assert values[chosen].min() > values[mask & ~chosen].max()
