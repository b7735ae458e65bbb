"""Per-token losses and KL estimators: [B, T] in, [B, T] out. The trainer averages them over the whole optimiser batch."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_LOG_RATIO = 20.0  # e^20 = 5e8: its square, in a gradient's norm, still fits into float32
LOGPROB_NOISE = 1e-5  # nats by which two float32 passes over the same text may differ


def _bounded(log_ratio: Tensor) -> Tensor:
    """A log-ratio as far as exp() of it stays finite; beyond, its value stays at the bound and its gradient goes on."""
    return torch.where(log_ratio > LARGEST_LOG_RATIO, LARGEST_LOG_RATIO + (log_ratio - log_ratio.detach()), log_ratio)


def _apart(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """How far a policy is from its reference, 0 where that may be rounding: what normalises (GRPO, Adam) would make it a signal like any."""
    difference = logprobs - reference_logprobs
    return torch.where(difference.abs() <= LOGPROB_NOISE, 0.0, difference)


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float = 0.2) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated.

    L_t = -min(r_t A_t, clip(r_t, 1 - c, 1 + c) A_t), r_t = exp(logprobs - old_logprobs), at most e^20.

    Args:
        logprobs: float [B, T] under the policy being trained.
        old_logprobs, advantages: float [B, T], constants.
    """
    ratio = torch.exp(_bounded(logprobs - old_logprobs))
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)


def importance_weights(logprobs: Tensor, sampled_logprobs: Tensor, cap: float) -> Tensor:
    """Truncated importance weights (Ionides 2008), min(pi / mu, cap): pi the policy when the rollout was made, mu the engine that sampled.

    Args:
        logprobs, sampled_logprobs: under pi and mu, of the same shape: of tokens [B, T], or of responses [B, 1].
    """
    return torch.exp((logprobs - sampled_logprobs).clamp(max=LARGEST_LOG_RATIO)).clamp(max=cap)


def clipped(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float = 0.2) -> Tensor:
    """bool [B, T]: where the clip of `policy_loss` takes the gradient away."""
    ratio = torch.exp(logprobs - old_logprobs)
    return ((ratio > 1 + clip_range) & (advantages > 0)) | ((ratio < 1 - clip_range) & (advantages < 0))


def kl_k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """k1 estimator of KL(policy || reference) (Schulman 2020): unbiased, of either sign; used as a penalty in the reward."""
    return _apart(logprobs, reference_logprobs)


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """k3 estimator of KL(policy || reference) (Schulman 2020): exp(-d) - 1 + d with d = log pi - log ref, never negative; used in the loss.

    exp(-d) is at most e^20.
    """
    difference = _apart(logprobs, reference_logprobs)
    return torch.expm1(_bounded(-difference)) + difference
