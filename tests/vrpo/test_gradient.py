"""The policy's gradient as a step would take it, how far it is from the exact one, and that measuring changes nothing."""

from dataclasses import replace

import pytest
import torch
from tiny import assert_same, count_digits, timeless, trainer

from vrpo.metrics.critic import cosine
from vrpo.models.forward import policy_forward
from vrpo.training import gradient
from vrpo.training.checkpoint import pack


def sampled(run, rows):
    """An experience of these rows with advantages made up by hand."""
    experience, _ = run.collect(rows, [0] * len(rows), iteration=1)
    draws = torch.randn(experience.rewards.shape, generator=torch.Generator().manual_seed(0))
    return replace(experience, advantages=draws * experience.response_mask)


def test_gradient_is_that_of_the_surrogate_at_ratio_1(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "ppo")
    experience = sampled(run, run.problems[:16])
    logprobs = policy_forward(run.policy, experience, run.generation.temperature).logprobs
    mask = experience.response_mask
    surrogate = -(logprobs * experience.advantages)[mask].sum() / mask.sum()  # at ratio 1, grad r = grad log pi
    expected = torch.cat([part.flatten() for part in torch.autograd.grad(surrogate, list(run.policy.parameters()))])
    found = run.updater.policy_gradient(experience)
    assert found.shape == expected.shape and expected.norm() > 0.1
    assert (found - expected).abs().max() < 1e-5


def test_micro_batches_do_not_change_the_gradient(tokenizer, problems) -> None:
    whole, parts = (trainer(tokenizer, problems, "ppo", changes={"micro_batch_size": size}) for size in (64, 3))
    experience = sampled(whole, whole.problems[:16])
    assert (whole.updater.policy_gradient(experience) - parts.updater.policy_gradient(experience)).abs().max() < 1e-6


def test_a_step_takes_this_gradient(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "vrpo")
    experience = sampled(run, run.problems[:16])
    norm = run.updater.policy_gradient(experience).norm()
    assert run.updater.step(experience, 1, True, False)["policy/grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


def by_position(experience):
    """Values that nothing but a token's place decides: its responses' mean reward. So the oracle's fit to the rewards has slope 1."""
    mask = experience.response_mask
    scores = experience.rewards.sum(1, keepdim=True) * mask
    return scores.sum(0) / mask.sum(0).clamp(min=1) * mask


def test_the_oracle_on_clean_rewards_has_the_exact_gradient_of_the_same_batch(tokenizer, problems, monkeypatch) -> None:
    run = trainer(tokenizer, problems, "oracle", clean_reward=count_digits, changes={"gae_lambda": 0.0})
    run.algorithm.success = by_position
    assert gradient.gradient_cosine(run, by_position) < 0.99  # of different batches
    rollout = run.sample(run.problems[:32], 5)
    monkeypatch.setattr(gradient, "stream", lambda rows, start, count, *key: list(rows[:32]))
    monkeypatch.setattr(run.collector, "sample", lambda rows, seed: rollout)
    assert gradient.gradient_cosine(run, by_position) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("method", ["rloo", "dr_grpo"])
def test_the_exact_gradient_is_the_same_direction_for_every_method(tokenizer, problems, method) -> None:
    """Token by token, also where the method's own loss knows one advantage a response."""
    own, plain = (
        gradient.exact_gradient(trainer(tokenizer, problems, name, clean_reward=count_digits), by_position) for name in (method, "ppo")
    )
    assert cosine(own, plain) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("method", ["vrpo", "grpo"])
def test_measuring_changes_nothing_of_a_run(tokenizer, problems, method) -> None:
    """Measured after the warm-up and after every iteration, a run is bit for bit the one that was not."""
    found = []
    measured = trainer(
        tokenizer,
        problems,
        method,
        clean_reward=count_digits,
        on_log=lambda row: found.append(gradient.gradient_cosine(measured, by_position)),
    )
    plain = trainer(tokenizer, problems, method, clean_reward=count_digits)
    assert timeless(measured.run()) == timeless(plain.run())
    assert len(found) == 4 and all(-1 <= value <= 1 for value in found)
    assert (measured.rollouts, measured.policy_updates, measured.iteration) == (plain.rollouts, plain.policy_updates, plain.iteration)
    assert_same(*(pack(run.updater.models, run.updater.optimizers) for run in (measured, plain)))
