"""The policy's side of an update: clipped surrogate and, if asked for, a k3 KL term. It is the same for every algorithm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vrpo.algorithms.losses import clipped, kl_k3, policy_loss
from vrpo.config import TrainConfig
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean
from vrpo.models.forward import policy_forward


def policy_terms(
    policy: Any,
    batch: Experience,
    config: TrainConfig,
    temperature: float,
    counts: dict[str, Tensor],
    *,
    whole_response: bool = False,
    hidden: bool = False,
) -> tuple[dict[str, Tensor], dict[str, float], Tensor | None]:
    """L_policy of a micro-batch.

    Args:
        policy: causal LM.
        batch: a micro-batch with advantages.
        config: clip range and KL settings.
        temperature: of the samples.
        counts: divisors over the whole optimiser batch: "policy" of the surrogate, "response_mask" (tokens) of every other mean.
        whole_response: the ratio is that of the response, not of its tokens; its advantage is the first token's.
        hidden: also return the states [B, T, H] that predict the response (for a critic on the same backbone).

    Returns:
        loss terms by name (their sum is minimised), metrics by name, and the states or None.
    """
    output, mask = policy_forward(policy, batch, temperature, hidden), batch.response_mask
    # Padding is 0 before a ratio is taken: the gradient of an infinite one is NaN, even where nothing is asked of it.
    logprobs = torch.where(mask, output.logprobs, 0.0)
    old, new, advantages, acted = batch.logprobs, logprobs, batch.advantages, mask
    if whole_response:
        old, new = old.sum(1, keepdim=True), new.sum(1, keepdim=True)
        advantages, acted = advantages[:, :1], mask.any(1, keepdim=True)
    terms = {"policy/loss": masked_mean(policy_loss(new, old, advantages, config.clip_range), acted, counts["policy"])}
    count = counts["response_mask"]
    if config.kl_coefficient and config.kl_in == "loss":
        terms["policy/kl_loss"] = config.kl_coefficient * masked_mean(kl_k3(logprobs, batch.reference_logprobs), mask, count)
    with torch.no_grad():
        clip = clipped(new, old, advantages, config.clip_range).float().expand_as(mask)
        metrics = {
            "policy/entropy": masked_mean(output.entropy, mask, count).item(),
            "policy/clip_fraction": masked_mean(clip, mask, count).item(),
        }
    return terms, metrics, output.hidden
