"""Log-probabilities whose logits never exist at once: the numbers and gradients of those that do."""

from dataclasses import replace

import pytest
import torch

from tests.vrpo.tiny import tiny_policy, trainer
from vrpo.config import LoRAConfig
from vrpo.data.batch import Rollout
from vrpo.data.masking import masked_mean
from vrpo.models import forward, lm_head
from vrpo.models.forward import policy_forward
from vrpo.models.lora import add_lora


def a_rollout(vocabulary: int, rows: int = 5, prompt: int = 4, length: int = 7) -> Rollout:
    torch.manual_seed(1)
    prompts, responses = torch.randint(vocabulary, (rows, prompt)), torch.randint(vocabulary, (rows, length))
    prompt_mask, mask = torch.ones(rows, prompt, dtype=torch.bool), torch.ones(rows, length, dtype=torch.bool)
    prompt_mask[0, :2], mask[1, 3:] = False, False
    return Rollout(prompts, prompt_mask, responses, mask, torch.zeros(rows, length))


def answers(policy, rollout, temperature: float, *, hidden: bool = False):
    """What a forward pass says, and the gradients of something that weighs each token differently."""
    policy.zero_grad()
    output = policy_forward(policy, rollout, temperature, hidden)
    weights = torch.linspace(-1, 2, rollout.responses.numel()).view_as(rollout.responses)
    loss = masked_mean(output.logprobs * weights, rollout.response_mask)
    if hidden:
        loss = loss + output.hidden.square().mean()
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in policy.named_parameters() if parameter.grad is not None}
    return output, gradients


def compare(policy, rollout, monkeypatch, *, temperature: float = 0.7, hidden: bool = False, tolerance: float = 1e-6) -> None:
    whole, expected = answers(policy, rollout, temperature, hidden=hidden)
    calls = []
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 3 * policy.get_input_embeddings().weight.shape[0])  # three tokens at a time
    real = forward.chunk_size
    monkeypatch.setattr(forward, "chunk_size", lambda weight: calls.append(1) or real(weight))
    parts, found = answers(policy, rollout, temperature, hidden=hidden)
    assert len(calls) == 2  # it was the other way: forward and backward
    assert torch.allclose(parts.logprobs, whole.logprobs, atol=1e-5, rtol=tolerance)
    assert torch.allclose(parts.entropy, whole.entropy, atol=1e-5, rtol=tolerance)
    assert not parts.entropy.requires_grad
    if hidden:
        assert torch.equal(parts.hidden, whole.hidden)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_in_chunks_numbers_and_gradients_are_the_same(tokenizer, monkeypatch, temperature: float, hidden: bool) -> None:
    policy = tiny_policy(tokenizer)
    compare(policy, a_rollout(len(tokenizer)), monkeypatch, temperature=temperature, hidden=hidden)


def gemma():
    """Soft cap on the logits."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return Gemma2ForCausalLM(
        Gemma2Config(vocab_size=40, intermediate_size=32, final_logit_softcapping=2.0, initializer_range=0.5, **sizes)
    ).eval()


def granite():
    """A factor on the logits, a head of its own."""
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    return GraniteForCausalLM(GraniteConfig(vocab_size=40, logits_scaling=0.25, tie_word_embeddings=False, **sizes)).eval()


def phi():
    """A bias on the logits."""
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    model = PhiForCausalLM(
        PhiConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    ).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.mark.parametrize("model", [gemma, granite, phi])
def test_heads_with_cap_factor_and_bias(model, monkeypatch) -> None:
    compare(model(), a_rollout(40), monkeypatch)


def test_adapters_in_the_backbone_learn(tokenizer, monkeypatch) -> None:
    policy = add_lora(tiny_policy(tokenizer), LoRAConfig(rank=2, target_modules=["q_proj", "v_proj"]), 0)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    compare(policy, a_rollout(len(tokenizer)), monkeypatch)


@pytest.mark.parametrize("spoil", ["adapters on the head", "a hook on the head"])
def test_what_acts_on_the_head_itself_is_left_to_the_model(tokenizer, monkeypatch, spoil: str) -> None:
    policy = tiny_policy(tokenizer)
    policy.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.detach().clone())
    if spoil == "a hook on the head":
        lm_head.LanguageModelHead.of(policy)  # known from before the hook
        policy.lm_head.register_forward_hook(lambda module, inputs, logits: logits + 3.0 * torch.arange(logits.shape[-1]))
    else:
        policy = add_lora(policy, LoRAConfig(rank=2, target_modules=["lm_head"]), 0)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
    rollout = a_rollout(len(tokenizer))
    whole, expected = answers(policy, rollout, 1.0)
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 1)
    parts, found = answers(policy, rollout, 1.0)
    assert torch.equal(parts.logprobs, whole.logprobs)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_half_precision_is_that_of_the_whole(tokenizer, monkeypatch) -> None:
    policy = tiny_policy(tokenizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compare(policy, a_rollout(len(tokenizer)), monkeypatch, tolerance=2e-2)


def test_a_suppressed_token_has_no_entropy_and_no_gradient(tokenizer, monkeypatch) -> None:
    policy = tiny_policy(tokenizer)
    policy.lm_head = torch.nn.Linear(16, len(tokenizer))
    policy.lm_head.bias.data[:3] = -torch.inf
    monkeypatch.setattr(lm_head.LanguageModelHead, "plain", classmethod(lambda cls, model: cls(model.lm_head.weight, model.lm_head.bias)))
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 1)
    rollout = a_rollout(len(tokenizer))
    rollout = replace(rollout, responses=rollout.responses.clamp(min=3))
    output, gradients = answers(policy, rollout, 1.0)
    assert output.entropy.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_run_in_chunks_is_the_same_run(tokenizer, problems, monkeypatch) -> None:
    whole = trainer(tokenizer, problems, "vrpo", changes={"kl_coefficient": 0.1})
    expected = whole.run()
    monkeypatch.setattr(lm_head, "CHUNK_ELEMENTS", 40 * len(tokenizer))
    parts = trainer(tokenizer, problems, "vrpo", changes={"kl_coefficient": 0.1})
    for a, b in zip(expected, parts.run(), strict=True):
        assert a["reward/observed"] == b["reward/observed"]
        assert a.get("policy/loss", 0.0) == pytest.approx(b.get("policy/loss", 0.0), abs=1e-5)
    for a, b in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
