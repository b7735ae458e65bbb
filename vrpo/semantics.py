"""Entropy and perplexity losses from a language-model head on the critic's hidden states (arXiv 2508.03058).

With P_V(. | x_t) = softmax(head(x_t)): H_t is its entropy and l_t = -log P_V(y_t | x_t) the surprisal of the token that the
trajectory took. Each loss acts on the top share of response tokens by its own quantity. The [tokens, V] logits exist only
in chunks, recomputed in backward, so memory does not grow with tokens x vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vrpo.masking import masked_mean

CHUNK_ELEMENTS = 1 << 24  # logits held at once: 64 MiB in float32


def _chunk_statistics(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logprobs = torch.log_softmax((hidden @ weight.T).float(), dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return entropy, -logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def head_statistics(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and surprisal of every token.

    Args:
        hidden: float [N, H].
        weight: float [V, H], the head's matrix; gradients reach it only if it asks for them (learned head).
        targets: int64 [N], the tokens of the trajectory.

    Returns:
        entropy, surprisal: float32 [N], in nats.
    """
    size = max(1, CHUNK_ELEMENTS // weight.shape[0])
    parts = [
        checkpoint(_chunk_statistics, h, weight, y, use_reentrant=False) if torch.is_grad_enabled() else _chunk_statistics(h, weight, y)
        for h, y in zip(hidden.split(size), targets.split(size), strict=True)
    ]
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


def semantic_losses(
    entropy: Tensor, surprisal: Tensor, entropy_mask: Tensor, surprisal_mask: Tensor, entropy_count=None, surprisal_count=None
) -> tuple[Tensor, Tensor]:
    """L_ent = mean of H_t over `entropy_mask` and L_ppl = mean of l_t over `surprisal_mask`; all inputs [B, T].

    The counts are those of the whole optimiser batch when this is one of its micro-batches (see `masked_mean`).
    """
    return masked_mean(entropy, entropy_mask, entropy_count), masked_mean(surprisal, surprisal_mask, surprisal_count)
