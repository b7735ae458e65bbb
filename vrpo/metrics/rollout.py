"""What a rollout says about reward, noise, length and critic. Nothing here feeds back into training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vrpo.algorithms.losses import kl_k3
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_centred, masked_mean, masked_var
from vrpo.metrics.critic import critic_metrics
from vrpo.rewards.calling import Score, totals
from vrpo.rewards.experience import token_rewards
from vrpo.rewards.labels import confusion

MUCH_ROUNDING = 0.02  # of the rewards' spread


def reward_rounding(scores: Sequence[float | None]) -> dict[str, float]:
    """`reward/rounding`, by how much of their spread float32 changes scores, where that is much: 1e8 and 1e8 + 1 are one number in it."""
    exact = torch.tensor([score for score in scores if score is not None], dtype=torch.float64)
    if not len(exact):
        return {}
    spread, error = float(exact.max() - exact.min()), float((exact - exact.float()).abs().max())
    differ = spread > 1e-12 * float(exact.abs().max())  # in more than float64's own rounding
    return {"reward/rounding": error / spread} if differ and error > MUCH_ROUNDING * spread else {}


def variance_parts(observed: Tensor, clean: Tensor, mask: Tensor) -> dict[str, float]:
    """Variance of observed advantages over True positions, and what it is made of. Both [B, T], estimated from the same responses."""
    noise = observed - clean
    products = masked_centred(clean, mask) * masked_centred(noise, mask)
    parts = {"variance": observed, "clean_variance": clean, "noise_variance": noise}
    metrics = {f"advantage/{name}": float(masked_var(part, mask)) for name, part in parts.items()}
    return metrics | {"advantage/noise_covariance": float(masked_mean(products, mask))}


@torch.no_grad()
def experience_metrics(
    experience: Experience, observed: Sequence[Score], clean: Sequence[Score] | None, estimate: Callable[..., tuple], gamma: float = 1.0
) -> dict[str, float]:
    """What a rollout says about reward, noise, length and critic.

    With a clean reward, the advantages' variance is split, Var(A) = Var(A_clean) + Var(N) + 2 Cov(A_clean, N) with N = A - A_clean
    (`advantage/variance`, `clean_variance`, `noise_variance`, `noise_covariance`). Both are estimated by `estimate(experience, rewards)`
    on the same responses and the same values, before whitening. Under GAE the values cancel out of N = sum_l (gamma lambda)^l (r - r_clean):
    a critic acts on the noise through the lambda it allows and through what it learned from noisy returns, not in this difference.

    Values are held against the returns that they predict, discounted by `gamma`: what is earned from each token on, KL penalties in
    the reward included (`critic/ev_observed`), and the same with clean scores instead of observed ones (`critic/ev_clean`).
    """
    mask, earned = experience.response_mask, {"observed": experience.rewards}
    scores, known = torch.tensor([score or 0.0 for score in totals(observed)]), experience.scored
    metrics = {
        "reward/observed": float(scores[known].mean()) if known.any() else math.nan,
        "reward/unscored": float((~known).float().mean()),
    } | reward_rounding(totals(observed))
    if experience.reference_logprobs is not None:
        metrics["policy/kl"] = float(masked_mean(kl_k3(experience.logprobs, experience.reference_logprobs), mask))
    if experience.sampled_logprobs is not None:
        mismatch = (experience.logprobs - experience.sampled_logprobs).abs()[mask]
        metrics |= {"rollout/engine_mismatch": float(mismatch.mean()), "rollout/engine_mismatch_max": float(mismatch.max())}
    if clean is not None:
        both = known & torch.tensor([score is not None for score in clean])
        without_noise = [c if told else o for o, c, told in zip(observed, clean, both.tolist(), strict=True)]
        earned["clean"] = experience.rewards + (token_rewards(without_noise, mask) - token_rewards(observed, mask))
        rates = confusion(totals(observed), totals(clean))
        advantages, without_noise = (estimate(experience, rewards)[0] for rewards in earned.values())
        clean_scores = torch.tensor([score or 0.0 for score in totals(clean)])
        metrics |= {
            "reward/clean": float(clean_scores[both].mean()) if both.any() else math.nan,
            "reward/true_positive_rate": rates["true_positive_rate"],
            "reward/false_positive_rate": rates["false_positive_rate"],
        } | variance_parts(advantages, without_noise, mask)
    if experience.values is not None:
        metrics |= critic_metrics(experience, earned, gamma)
    return metrics
