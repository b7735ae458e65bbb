"""The policy's side of an update: the algorithm's surrogate and, if asked for, a k3 KL term."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vrpo.algorithms.base import Algorithm
from vrpo.algorithms.losses import kl_k3
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean
from vrpo.models.forward import policy_forward


def policy_terms(
    policy: Any, algorithm: Algorithm, batch: Experience, temperature: float, counts: dict[str, Tensor], hidden: bool = False
) -> tuple[dict[str, Tensor], dict[str, float], Tensor | None]:
    """L_policy of a micro-batch.

    Args:
        policy: causal LM.
        algorithm: its surrogate and its settings of the KL term.
        batch: a micro-batch with advantages.
        temperature: of the samples.
        counts: divisors over the whole optimiser batch (see `Algorithm.policy_loss`).
        hidden: also return the states [B, T, H] that predict the response (for a critic on the same backbone).

    Returns:
        loss terms by name (their sum is minimised), metrics by name, and the states or None.
    """
    output, mask, config = policy_forward(policy, batch, temperature, hidden), batch.response_mask, algorithm.config
    # Padding is 0 before a ratio is taken: the gradient of an infinite one is NaN, even where nothing is asked of it.
    logprobs, count = torch.where(mask, output.logprobs, 0.0), counts["response_mask"]
    weighted = batch
    if config.importance_cap is not None and batch.sampled_logprobs is not None:  # a weighted loss is that of weighted advantages
        weighted = replace(batch, advantages=algorithm.importance_weights(batch) * batch.advantages)
    loss, metrics = algorithm.policy_loss(weighted, logprobs, counts)
    terms = {"policy/loss": loss}
    if config.kl_coefficient and config.kl_in == "loss":
        terms["policy/kl_loss"] = config.kl_coefficient * masked_mean(kl_k3(logprobs, batch.reference_logprobs), mask, count)
    metrics = {"entropy": masked_mean(output.entropy, mask, count).item()} | metrics
    return terms, {f"policy/{name}": value for name, value in metrics.items()}, output.hidden
