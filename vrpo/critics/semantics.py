"""Entropy and perplexity losses from a language-model head on the critic's hidden states (arXiv 2508.03058).

With P_V(. | x_t) = softmax(head(x_t)), the head with its bias, factor and soft cap (see `vrpo.models.lm_head`): H_t is its entropy and l_t = -log P_V(y_t | x_t) the surprisal of the token that the
trajectory took. Each loss acts on the top share of response tokens by its own quantity. The [tokens, V] logits exist only
in chunks: memory does not grow with tokens x vocabulary. Which token counts how much is known before the forward pass, so each
chunk's gradient is taken while its logits are there, and nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vrpo.data.masking import masked_mean
from vrpo.models.lm_head import LanguageModelHead, chunk_size


def _as_head(head: LanguageModelHead | Tensor) -> LanguageModelHead:
    if isinstance(head, nn.Parameter):  # of a model, it would be half a head
        return LanguageModelHead.holding(head)
    return LanguageModelHead(head) if isinstance(head, Tensor) else head


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
def head_statistics(hidden: Tensor, head: LanguageModelHead | Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and surprisal of every token, without gradient.

    Args:
        hidden: float [N, H].
        head: of the model, or its output weight, or a bare matrix [V, H] for a head that is nothing else.
        targets: int64 [N], the tokens of the trajectory.

    Returns:
        entropy, surprisal: float32 [N], in nats.
    """
    head = _as_head(head)
    size = chunk_size(head.weight)
    parts = [_statistics(head.logits(h), y)[:2] for h, y in zip(hidden.split(size), targets.split(size), strict=True)]
    entropy, surprisal = zip(*parts, strict=True)
    return torch.cat(entropy), torch.cat(surprisal)


def response_statistics(hidden: Tensor, head: LanguageModelHead | Tensor, responses: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """`head_statistics` on the True positions of [B, T, H] states; returns entropy and surprisal [B, T], 0 where masked."""
    entropy = torch.zeros(mask.shape, device=hidden.device)
    surprisal = torch.zeros_like(entropy)
    entropy_tokens, surprisal_tokens = head_statistics(hidden[mask], head, responses[mask])
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
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: LanguageModelHead, targets: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        head = replace(head, weight=weight, bias=bias)
        entropy, surprisal = torch.empty_like(a), torch.empty_like(b)
        ctx.hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        ctx.weight_gradient = torch.zeros_like(weight) if needs_weight else None
        ctx.bias_gradient = torch.zeros_like(bias) if needs_bias else None
        # Each token weighs about 1 / tokens: in half precision most entries would be 0. A power of two changes nothing else.
        unit = torch.ldexp(a.new_ones(()), torch.frexp(torch.cat([a, b]).max()).exponent) if len(a) else a.new_ones(())
        ctx.unit = unit
        size = chunk_size(weight)
        for start in range(0, len(hidden), size):
            rows = slice(start, start + size)
            in_entropy, in_surprisal = a[rows, None] / unit, b[rows, None] / unit
            h, y, product = hidden[rows], targets[rows, None], head.linear(hidden[rows])
            logits = head.shape(product)
            entropy[rows], surprisal[rows], gradient, probabilities = _statistics(logits, targets[rows])
            if not (needs_hidden or needs_weight or needs_bias):
                continue
            gradient.mul_(-in_entropy).add_(in_surprisal - in_entropy * entropy[rows, None]).mul_(probabilities)
            gradient.scatter_add_(1, y, -in_surprisal)
            gradient = gradient.mul_(head.slope(logits)).to(product.dtype)
            if needs_hidden:
                ctx.hidden_gradient[rows] = gradient @ weight
            if needs_weight:
                ctx.weight_gradient += gradient.T @ h
            if needs_bias:
                ctx.bias_gradient += gradient.sum(0)
        ctx.mark_non_differentiable(entropy, surprisal)
        return (a * entropy + b * surprisal).sum(), entropy, surprisal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (ctx.hidden_gradient, ctx.weight_gradient, ctx.bias_gradient)
        return *(None if gradient is None else gradient * (upstream * ctx.unit) for gradient in gradients), None, None, None, None


def semantic_losses(
    hidden: Tensor,
    head: LanguageModelHead | Tensor,
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
        head: as for `head_statistics`; a gradient reaches its weight and bias only if they ask for one (learned head).
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
    head = _as_head(head)
    total, entropy, surprisal = _WeightedStatistics.apply(hidden[chosen], head.weight, head.bias, head, responses[chosen], a, b)
    return total, masked_mean(entropy, in_entropy, entropy_count), masked_mean(surprisal, in_surprisal, surprisal_count)
