"""Entropy and perplexity losses: values, selection, chunking, gradients."""

import pytest
import torch

from vrpo import semantics
from vrpo.semantics import head_statistics, response_statistics, semantic_losses, top_ratio_mask


def naive(hidden, weight, targets):
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T)
    return distribution.entropy(), -distribution.log_prob(targets)


@pytest.mark.parametrize("chunk_elements", [1, 100, 10_000])
def test_chunks_equal_the_naive_version_with_gradients(monkeypatch, chunk_elements: int) -> None:
    monkeypatch.setattr(semantics, "CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(23, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True), torch.randint(0, 50, (23,))
    results = []
    for function in (head_statistics, naive):
        entropy, surprisal = function(hidden, weight, targets)
        gradients = torch.autograd.grad(entropy.sum() + (surprisal * torch.arange(23)).sum(), (hidden, weight))
        results.append((entropy, surprisal, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_statistics_land_on_their_tokens_and_padding_gets_no_gradient() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 4, 8, requires_grad=True), torch.randn(11, 8)
    responses, mask = torch.randint(0, 11, (2, 4)), torch.tensor([[True, True, False, False], [True, True, True, True]])
    entropy, surprisal = response_statistics(hidden, weight, responses, mask)
    expected_entropy, expected_surprisal = naive(hidden.reshape(8, 8), weight, responses.reshape(8))
    assert torch.allclose(entropy[mask], expected_entropy.view(2, 4)[mask], atol=1e-5)
    assert torch.allclose(surprisal[mask], expected_surprisal.view(2, 4)[mask], atol=1e-5)
    (entropy.sum() + surprisal.sum()).backward()
    assert (hidden.grad[~mask] == 0).all() and (hidden.grad[mask] != 0).any()


@pytest.mark.parametrize(("ratio", "kept"), [(1.0, 10), (0.8, 8), (0.5, 5), (0.2, 2), (0.0, 0)])
def test_top_ratio_keeps_the_largest(ratio: float, kept: int) -> None:
    values = torch.tensor([[3.0, 1.0, 4.0, 1.5, 9.0, 2.6], [5.0, 3.5, 8.0, 7.0, 99.0, 99.0]])
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    chosen = top_ratio_mask(values, mask, ratio)
    assert chosen.sum() == kept and not (chosen & ~mask).any()
    if 0 < kept < 10:
        assert values[chosen].min() > values[mask & ~chosen].max()


def test_losses_are_means_over_their_own_tokens() -> None:
    entropy, surprisal = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0]])
    first, last = torch.tensor([[True, True, False]]), torch.tensor([[False, False, True]])
    assert [loss.item() for loss in semantic_losses(entropy, surprisal, first, last)] == [1.5, 6.0]
