"""The split of the advantages' variance into what is clean and what is noise; returns; which sample of its problem a response is."""

from dataclasses import replace

import pytest
import torch

from vrpo.algorithms.advantages import compute_gae
from vrpo.data.batch import Rollout
from vrpo.metrics.rollout import experience_metrics, variance_parts
from vrpo.rewards.experience import at_last_token, new_experience, repeats
from vrpo.rewards.noise import NoiseChannel

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


def test_values_are_held_against_the_returns_that_they_predict() -> None:
    """Rewards of turns and penalties on tokens are earned on the way: behind them values that still count them are wrong."""
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)  # dialogues of two turns, and of one
    ids = torch.zeros(mask.shape, dtype=torch.long)
    given, clean = [[0.5, 0.25], [0.0, 1.0], 0.5], [[0.5, 0.5], [0.0, 1.0], None]
    experience = new_experience(Rollout(ids[:, :1], mask[:, :1], ids, mask, torch.zeros(mask.shape)), given)
    experience = replace(experience, rewards=experience.rewards - 0.01 * mask)  # as kl_in: reward does
    returns = torch.tensor([[0.71, 0.72, 0, 0.23, 0.24], [0.97, 0, 0.98, 0.99, 0], [0.47, 0.48, 0.49, 0, 0]])
    for gamma, values in ((1.0, returns), (0.5, None)):
        if values is None:
            values = compute_gae(experience.rewards, torch.zeros(mask.shape), mask, gamma, 1.0)
        found = experience_metrics(replace(experience, values=values), given, clean, no_advantages, gamma)
        assert found["critic/ev_observed"] == pytest.approx(1.0) and found["critic/mse_observed"] == pytest.approx(0.0, abs=1e-9)
    cleaned = returns + torch.tensor([[0.25, 0.25, 0, 0.25, 0.25], [0] * 5, [0] * 5])  # what has no clean score counts as it is
    found = experience_metrics(replace(experience, values=cleaned * mask), given, clean, no_advantages)
    assert found["critic/ev_clean"] == pytest.approx(1.0) and found["critic/ev_observed"] < 0.99
    assert found["reward/clean"] == pytest.approx(1.0)


def no_advantages(experience, rewards):
    return torch.zeros(rewards.shape), None


def test_repeats_count_the_earlier_rows_of_one_problem() -> None:
    rows = [
        {"prompt": "a", "id": 1},
        {"prompt": "a", "id": 2},
        {"prompt": "b", "id": 1},
        {"prompt": "a"},
        {"prompt": "a"},
        {"prompt": "a", "id": 1},
    ]
    assert repeats(rows) == [0, 0, 1, 0, 1, 2]
    assert repeats([row for row in rows[:2] for _ in range(3)]) == [0, 1, 2] * 2  # groups
