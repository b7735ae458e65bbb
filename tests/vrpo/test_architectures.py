"""Models of many architectures: the quick part of `python -m tests.architectures`, and what its checks refuse."""

import copy

import pytest
import torch
from tiny import tiny_policy, trainer
from transformers import LlamaForCausalLM

from tests.architectures import CELLS, new_model, rollouts, verdict
from vrpo.critics.semantics import head_statistics
from vrpo.critics.value_model import ValueModel
from vrpo.data.batch import Rollout
from vrpo.errors import UserError
from vrpo.models.forward import policy_forward
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.states import after_last_layer, backbone_of, backbone_states, states_width
from vrpo.rollout.engines.transformers import check_model, generate

WHOLE = ["OPT-350m like", "Gemma 2", "Phi", "MPT", "LFM2", "Qwen3-MoE"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", WHOLE)
def test_a_run_on_other_architectures_is_right(name: str, cell: str) -> None:
    assert verdict(name, cell) == "right"


@pytest.mark.parametrize("name", ["Mamba", "RWKV", "MiniMax", "xLSTM", "OpenAI GPT"])
def test_models_that_cannot_be_decoded_are_refused_before_any_work(name: str) -> None:
    model = new_model(name)
    for use in (check_model, lambda model: generate(model, [[3, 4], [5]], **GENERATION)):
        with pytest.raises(UserError, match=f"{type(model).__name__} cannot be sampled from"):
            use(model)


GENERATION = {"max_new_tokens": 3, "temperature": 1.0, "eos_token_id": 1, "pad_token_id": 2, "seed": 0}


@pytest.mark.parametrize("name", ["Falcon-H1", "Qwen3.5", "Jamba"])
def test_recurrent_layers_drop_rows_with_the_others(name: str) -> None:
    rollouts(new_model(name))


@pytest.mark.parametrize(
    ("name", "bias", "scale", "cap"),
    [
        ("Phi", True, 1.0, None),
        ("Gemma 2", False, 1.0, 3.0),
        ("Cohere", False, 0.0625, None),
        ("Granite", False, 0.125, None),
        ("Falcon-H1", False, 0.5, None),
        ("MiniCPM3", False, 0.5, None),
        ("NanoChat", False, 1.0, 15.0),
    ],
)
def test_the_head_is_the_models(name: str, bias: bool, scale: float, cap: float | None) -> None:
    model, ids = new_model(name), torch.tensor([[5, 6, 7, 8, 9, 10]])
    head = LanguageModelHead.of(model)
    assert (head.bias is not None, head.scale, head.soft_cap) == (bias, pytest.approx(scale, rel=1e-6), cap)
    with torch.no_grad():
        states = backbone_states(backbone_of(model), ids, torch.ones_like(ids, dtype=torch.bool))
        logits = model(ids).logits
        assert torch.allclose(head.logits(states), logits, atol=1e-4)
        _, surprisal = head_statistics(states[0, :-1], model.get_output_embeddings().weight, ids[0, 1:])  # the weight stands for its model
    assert torch.allclose(surprisal, -logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0], atol=1e-4)


def test_a_head_that_is_not_understood_is_refused_by_vrpo_and_not_by_ppo(tokenizer, problems, monkeypatch) -> None:
    forward = LlamaForCausalLM.forward

    def squared(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits = output.logits + 0.1 * output.logits.square()
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", squared)
    trainer(tokenizer, problems, "ppo")
    trainer(tokenizer, problems, "vrpo", changes={"critic": {"entropy_weight": 0.0, "perplexity_weight": 0.0}})
    for changes in ({}, {"surprisal_inputs": True, "entropy_weight": 0.0, "perplexity_weight": 0.0}):
        with pytest.raises(UserError, match="LlamaForCausalLM: its language-model head is not understood"):
            trainer(tokenizer, problems, "vrpo", changes={"critic": changes})


def test_scoring_takes_the_responses_logits_of_a_model_that_gives_all(policy, monkeypatch) -> None:
    rollout = generate(policy, [[5, 6, 7], [8]], **GENERATION)
    expected = policy_forward(policy, rollout, 1.0).logprobs
    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda self, logits_to_keep=0, **kwargs: forward(self, **kwargs))
    assert torch.allclose(policy_forward(policy, rollout, 1.0).logprobs, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["Gemma 3n", "OPT-125m like"])
def test_a_shared_critic_reads_the_same_states_in_both_passes(name: str) -> None:
    """The policy's pass, with gradient, and the critic's own: `hidden_states[-1]` of Gemma 3n is none of them."""
    model = new_model(name)
    ids, mask = torch.tensor([[5, 6, 7, 8, 9]]), torch.ones(1, 3, dtype=torch.bool)
    rollout = Rollout(ids[:, :2], mask[:, :2], ids[:, 2:], mask, torch.zeros(1, 3))
    with torch.no_grad():
        shared = policy_forward(model, rollout, 1.0, hidden=True).hidden
        own = backbone_states(backbone_of(model), ids, torch.ones_like(ids, dtype=torch.bool))[:, 1:-1]
    assert torch.allclose(shared, own, atol=1e-5)


def test_the_width_of_states_and_what_follows_the_last_layer_are_found_by_structure(policy) -> None:
    projected, mpt, gemma = (backbone_of(new_model(name)) for name in ("OPT-350m like", "MPT", "Gemma 2"))
    assert [states_width(backbone) for backbone in (projected, mpt, policy.base_model)] == [16, 32, 16]
    assert after_last_layer(projected) == [projected.decoder.project_out]
    assert after_last_layer(mpt) == [mpt.norm_f] and after_last_layer(gemma) == [gemma.norm]
    assert after_last_layer(backbone_of(new_model("OPT-125m like")))[0].weight.shape == (32,)


def test_a_projected_value_model_is_loaded_with_its_width(tmp_path) -> None:
    critic = ValueModel.from_policy(new_model("OPT-350m like"), shared=False, depth=1, latent_size=4, seed=0).eval()
    torch.nn.init.normal_(critic.head.decoder[-1].weight)
    critic.save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    assert torch.allclose(ValueModel.from_pretrained(tmp_path)(ids, mask).values, critic(ids, mask).values, atol=1e-6)


def test_a_policy_with_adapters_or_without_a_decoder_is_refused(tokenizer, problems, monkeypatch) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_policy(tokenizer), LoraConfig(target_modules="all-linear"))
    cases = [(adapted, "brings adapters of its own.*merge_and_unload"), (copy.deepcopy(adapted).base_model.model, "adapters of its own")]
    encoder = tiny_policy(tokenizer)
    encoder.config.is_encoder_decoder = True
    cases.append((encoder, "no decoder-only language model"))
    for policy, message in cases:
        monkeypatch.setattr("tiny.tiny_policy", lambda tokenizer, policy=policy: policy)
        with pytest.raises(UserError, match=message):
            trainer(tokenizer, problems, "grpo")
