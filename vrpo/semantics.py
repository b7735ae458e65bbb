"""Entropy and perplexity losses from a language-model head on the critic's hidden states (arXiv 2508.03058).

With P_V(. | x_t) = softmax(head(x_t)): H_t is its entropy and l_t = -log P_V(y_t | x_t) the surprisal of the token that the
trajectory took. Each loss acts on the top share of response tokens by its own quantity. The [tokens, V] logits exist only
in chunks: memory does not grow with tokens x vocabulary. Which token counts how much is known before the forward pass, so each
chunk's gradient is taken while its logits are there, and nothing is computed twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vrpo.masking import masked_mean

CHUNK_ELEMENTS = 1 << 25  # logits held at once: 128 MiB in float32


def _chunk_size(weight: Tensor) -> int:
    """Tokens whose logits are held at once."""
    return max(1, CHUNK_ELEMENTS // weight.shape[0])


def _statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entropy and surprisal [N], log-probabilities and probabilities [N, V], all float32.

    Probabilities below e^-10000, those of suppressed tokens (logit -inf) too, count as that: 0 * -inf would be NaN.
    """
    with torch.autocast(logits.device.type, enabled=False):  # vecdot would be taken in half precision
        logprobs = torch.log_softmax(logits.float(), dim=-1).clamp_(min=-1e4)
        probabilities = logprobs.exp()
        entropy = -torch.linalg.vecdot(probabilities, logprobs)
    return entropy, -logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), logprobs, probabilities


@torch.no_grad()
def head_statistics(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and surprisal of every token, without gradient.

    Args:
        hidden: float [N, H].
        weight: float [V, H], the head's matrix.
        targets: int64 [N], the tokens of the trajectory.

    Returns:
        entropy, surprisal: float32 [N], in nats.
    """
    size = _chunk_size(weight)
    parts = [_statistics(h @ weight.T, y)[:2] for h, y in zip(hidden.split(size), targets.split(size), strict=True)]
    entropy, surprisal = zip(*parts, strict=True)
    return torch.cat(entropy), torch.cat(surprisal)


def response_statistics(hidden: Tensor, weight: Tensor, responses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """`head_statistics` on the True positions of [B, T, H] states; returns entropy and surprisal [B, T], 0 where masked."""
    entropy = torch.zeros(mask.shape, device=hidden.device)
    surprisal = torch.zeros_like(entropy)
    entropy_tokens, surprisal_tokens = head_statistics(hidden[mask], weight, responses[mask])
    return entropy.masked_scatter(mask, entropy_tokens), surprisal.masked_scatter(mask, surprisal_tokens)


def top_ratio_mask(values: Tensor, mask: Tensor, ratio: float) -> Tensor:
    """The `ratio` of True positions with the largest values, as a bool mask [B, T].

    The threshold is a quantile over the whole rollout batch (not a micro-batch). Ties at the threshold are all kept,
    so a batch of equal values keeps every token; ratio 0 keeps none.
    """
    if ratio <= 0.0 or not mask.any():
        return torch.zeros_like(mask)
    ranked = values[mask].float().sort().values
    dropped = min(int((1.0 - ratio) * len(ranked) + 1e-6), len(ranked) - 1)
    return mask & (values >= ranked[dropped])


class _WeightedStatistics(torch.autograd.Function):
    """sum_n a_n H_n + b_n l_n, with the statistics themselves; d/dlogit_nj = a_n * -p_nj (log p_nj + H_n) + b_n * (p_nj - [j = y_n])."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        entropy, surprisal = torch.empty_like(a), torch.empty_like(b)
        ctx.hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        ctx.weight_gradient = torch.zeros_like(weight) if needs_weight else None
        size = _chunk_size(weight)
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            h, y, logits = hidden[rows], targets[rows, None], hidden[rows] @ weight.T
            entropy[rows], surprisal[rows], gradient, probabilities = _statistics(logits, targets[rows])
            if not (needs_hidden or needs_weight):
                continue
            gradient.mul_(-a[rows, None]).add_((b - a * entropy)[rows, None]).mul_(probabilities)
            gradient.scatter_add_(1, y, -b[rows, None])
            gradient = gradient.to(logits.dtype)
            if needs_hidden:
                ctx.hidden_gradient[rows] = gradient @ weight
            if needs_weight:
                ctx.weight_gradient += gradient.T @ h
        ctx.mark_non_differentiable(entropy, surprisal)
        return (a * entropy + b * surprisal).sum(), entropy, surprisal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if gradient is None else gradient * upstream for gradient in (ctx.hidden_gradient, ctx.weight_gradient)]
        return *scaled, None, None, None


def semantic_losses(
    hidden: Tensor,
    weight: Tensor,
    responses: Tensor,
    entropy_mask: Tensor,
    surprisal_mask: Tensor,
    *,
    entropy_weight: float = 0.5,
    perplexity_weight: float = 0.5,
    counts: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """entropy_weight * L_ent + perplexity_weight * L_ppl, L_ent the mean of H_t over `entropy_mask`, L_ppl of l_t over `surprisal_mask`.

    Args:
        hidden: float [B, T, H], the critic's states.
        weight: float [V, H], the head's matrix; a gradient reaches it only if it asks for one (learned head).
        responses: int64 [B, T].
        entropy_mask, surprisal_mask: bool [B, T]. A token in neither costs nothing.
        counts: True positions of both masks in the whole optimiser batch, when this is one of its micro-batches (see `masked_mean`).

    Returns:
        the weighted sum, with gradient; L_ent and L_ppl, without.
    """
    entropy_count, surprisal_count = counts or (entropy_mask.sum(), surprisal_mask.sum())
    chosen = entropy_mask | surprisal_mask
    in_entropy, in_surprisal = entropy_mask[chosen], surprisal_mask[chosen]
    a = in_entropy.float() * (entropy_weight / entropy_count.clamp(min=1).to(hidden.device))
    b = in_surprisal.float() * (perplexity_weight / surprisal_count.clamp(min=1).to(hidden.device))
    total, entropy, surprisal = _WeightedStatistics.apply(hidden[chosen], weight, responses[chosen], a, b)
    return total, masked_mean(entropy, in_entropy, entropy_count), masked_mean(surprisal, in_surprisal, surprisal_count)
