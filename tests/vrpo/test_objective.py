"""The whole policy loss of a batch, gradient included, against one written from the equations, response by response."""

from dataclasses import replace

import pytest
import torch
from tiny import METHODS, trainer


def response_logprobs(policy, prompt: list[int], response: list[int]) -> torch.Tensor:
    """float64 [T], one sequence alone, without padding."""
    logits = policy(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
    return torch.log_softmax(logits, -1)[range(len(response)), response]


@pytest.mark.parametrize("kl_coefficient", [0.0, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_a_ragged_batch_equals_the_equations(tokenizer, problems, method: str, kl_coefficient: float) -> None:
    run = trainer(tokenizer, problems, method, changes={"kl_coefficient": kl_coefficient, "micro_batch_size": 7, "max_grad_norm": 1e9})
    group = run.algorithm.group_size
    experience, _ = run.collect([row for row in problems[: 16 // group] for _ in range(group)], [0] * 16, iteration=1)
    assert len(set(experience.lengths.tolist())) > 2
    torch.manual_seed(1)
    with torch.no_grad():  # away from the sampling policy, so that ratios differ and some are clipped
        for parameter in run.policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))

    losses, penalties, tokens = [], [], 0
    for index in range(len(experience)):
        row = experience[index : index + 1]
        prompt, response = row.prompts[row.prompt_mask].tolist(), row.responses[row.response_mask].tolist()
        new = response_logprobs(run.policy, prompt, response)
        old = row.logprobs[row.response_mask].double()
        advantages = row.advantages[row.response_mask].double()
        log_ratio = new - old
        if method == "rloo":
            log_ratio, advantages = log_ratio.sum(0, keepdim=True), advantages[:1]
        ratio = log_ratio.exp()
        losses.append(-torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).sum())
        with torch.no_grad():
            reference = response_logprobs(run.reference, prompt, response)
        penalties.append(((reference - new).exp() - 1 - (reference - new)).sum())
        tokens += len(response)
    divisor = {"rloo": 16, "dr_grpo": 16 * run.generation.max_new_tokens}.get(method, tokens)
    expected_loss = sum(losses) / divisor + kl_coefficient * sum(penalties) / tokens
    expected = torch.autograd.grad(expected_loss, list(run.policy.parameters()))

    metrics = run.updater.step(experience, 1, True, False)
    assert metrics["policy/loss"] + metrics.get("policy/kl_loss", 0.0) == pytest.approx(expected_loss.item(), abs=1e-5)
    assert metrics["policy/clip_fraction"] > 0
    for parameter, gradient in zip(run.policy.parameters(), expected, strict=True):
        assert (parameter.grad - gradient).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo"])
def test_an_importance_cap_weighs_the_surrogate_and_nothing_else(tokenizer, problems, method: str) -> None:
    run = trainer(tokenizer, problems, method, changes={"kl_coefficient": 0.3, "importance_cap": 1.3, "micro_batch_size": 7})
    group = run.algorithm.group_size
    plain, _ = run.collect([row for row in problems[: 16 // group] for _ in range(group)], [0] * 16, iteration=1)
    assert plain.sampled_logprobs is None  # an engine that gives the policy's own needs no weights
    noise = 0.3 * torch.randn(plain.logprobs.shape, generator=torch.Generator().manual_seed(0)) * plain.response_mask
    ratio = (-noise.sum(1, keepdim=True) if method == "rloo" else -noise).exp()
    assert (ratio > 1.3).any() and (ratio < 1.3).any()
    wanted = replace(plain, advantages=plain.advantages * ratio.clamp(max=1.3))
    sampled = replace(plain, sampled_logprobs=plain.logprobs + noise)
    gradient = run.updater.policy_gradient(sampled)
    assert (gradient - run.updater.policy_gradient(wanted)).abs().max() < 1e-6
    assert (gradient - run.updater.policy_gradient(plain)).abs().max() > 1e-4
    run.algorithm.config = run.config.model_copy(update={"importance_cap": None})  # off by default
    assert torch.equal(run.updater.policy_gradient(sampled), run.updater.policy_gradient(plain))
