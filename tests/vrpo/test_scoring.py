"""The split of the advantages' variance into what is clean and what is noise."""

import pytest
import torch

from vrpo.advantages import compute_gae
from vrpo.rewards.noise import NoiseChannel
from vrpo.scoring import at_last_token, experience_metrics, new_experience, variance_parts
from vrpo.types import Rollout

LENGTHS = torch.tensor([1, 3, 5, 5, 2, 4] * 20)
MASK = torch.arange(5) < LENGTHS[:, None]
CLEAN = [float(i % 3 == 0) for i in range(len(LENGTHS))]
IDS = [str(i) for i in range(len(LENGTHS))]
OBSERVED = NoiseChannel(0.3, 0.2, seed=0)(CLEAN, step=1, ids=IDS, samples=[0] * len(IDS))


def advantages(scores: list[float], values: torch.Tensor, lam: float) -> torch.Tensor:
    return compute_gae(at_last_token(torch.tensor(scores), MASK), values * MASK, MASK, 1.0, lam)


@pytest.mark.parametrize("lam", [1.0, 0.8])
def test_parts_add_up_to_the_variance(lam: float) -> None:
    values = torch.rand(MASK.shape, generator=torch.Generator().manual_seed(0))
    parts = variance_parts(advantages(OBSERVED, values, lam), advantages(CLEAN, values, lam), MASK)
    total = parts["advantage/clean_variance"] + parts["advantage/noise_variance"] + 2 * parts["advantage/noise_covariance"]
    assert parts["advantage/variance"] == pytest.approx(total, rel=1e-5)
    assert parts["advantage/noise_covariance"] < -0.01  # a flip turns right into wrong and wrong into right


@pytest.mark.parametrize("lam", [1.0, 0.8])
def test_noise_part_is_the_flips_by_hand_whatever_the_critic_says(lam: float) -> None:
    flips = torch.tensor(OBSERVED) - torch.tensor(CLEAN)
    noise = (flips[:, None] * lam ** (LENGTHS[:, None] - 1 - torch.arange(5)))[MASK]  # reaches back from the last token
    for values in (torch.zeros(MASK.shape), torch.rand(MASK.shape, generator=torch.Generator().manual_seed(1))):
        parts = variance_parts(advantages(OBSERVED, values, lam), advantages(CLEAN, values, lam), MASK)
        assert parts["advantage/noise_variance"] == pytest.approx(float(noise.var(correction=0)), rel=1e-4)


def test_a_rollout_reports_both_rewards_and_the_parts() -> None:
    ids = torch.zeros(MASK.shape, dtype=torch.long)
    rollout = Rollout(ids[:, :1], MASK[:, :1], ids, MASK, torch.zeros(MASK.shape))
    experience = new_experience(rollout, OBSERVED)
    metrics = experience_metrics(
        experience, OBSERVED, CLEAN, lambda e, rewards: (compute_gae(rewards, torch.zeros(MASK.shape), MASK, 1.0, 0.9),) * 2
    )
    zeros = torch.zeros(MASK.shape)
    expected = variance_parts(advantages(OBSERVED, zeros, 0.9), advantages(CLEAN, zeros, 0.9), MASK)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["reward/observed"] == pytest.approx(sum(OBSERVED) / len(IDS)) and metrics["reward/clean"] == pytest.approx(1 / 3)
