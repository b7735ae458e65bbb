"""LoRA, gradient checkpointing, half precision: options that change how a run computes, not what it is."""

import pytest
import torch
from tiny import assert_same, timeless, tiny_policy, trainer, weights
from transformers import AutoModelForCausalLM

from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError

LORA = {"rank": 2, "alpha": 4.0}


def adapters(run) -> set[str]:
    return {name for name, parameter in run.updater.models.named_parameters() if parameter.requires_grad and "lora_" in name}


@pytest.mark.parametrize("backbone", ["separate", "shared"])
@pytest.mark.parametrize("method", ["vrpo", "grpo"])
def test_lora_trains_adapters_only_and_saves_whole_models(tokenizer, problems, tmp_path, method: str, backbone: str) -> None:
    run = trainer(tokenizer, problems, method, changes={"lora": LORA, "critic": {"backbone": backbone}})
    before = weights(run)
    initial = {name: tensor.clone() for name, tensor in tiny_policy(tokenizer).state_dict().items()}
    run.run()
    moved = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert adapters(run) and adapters(run) <= moved
    assert all("lora_" in name or name.startswith("critic.head") for name in moved)
    assert any(name.startswith("critic.backbone") for name in adapters(run)) == (method == "vrpo" and backbone == "separate")

    run.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids = torch.tensor([tokenizer(problems[0]["prompt"], add_special_tokens=False)["input_ids"]])
    run.policy.eval()
    assert torch.allclose(loaded(ids).logits, run.policy(ids).logits, atol=1e-5)
    assert loaded.state_dict().keys() == initial.keys()
    assert any(not torch.equal(tensor, initial[name]) for name, tensor in loaded.state_dict().items())
    if method == "vrpo":
        value_model = ValueModel.from_pretrained(tmp_path / "value_model")
        mask = torch.ones_like(ids, dtype=torch.bool)
        assert torch.allclose(value_model(ids, mask).values, run.critic(ids, mask).values, atol=1e-5)


def test_loras_reference_is_the_policy_without_adapters(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "ppo", changes={"lora": LORA})
    whole = trainer(tokenizer, problems, "ppo")
    assert run.reference is None
    run.run()
    experience, _ = run.collect(problems[:8], [0] * 8, iteration=1)
    expected, _ = whole.collector.read(experience, reference=True)
    assert torch.allclose(experience.reference_logprobs, expected.reference_logprobs, atol=1e-5)
    assert (experience.logprobs - experience.reference_logprobs).abs().max() > 1e-3


def test_lora_resumes_bit_for_bit_from_a_small_checkpoint(tokenizer, problems, tmp_path) -> None:
    changes, path = {"lora": LORA | {"dropout": 0.1}}, tmp_path / "state.safetensors"
    unbroken = trainer(tokenizer, problems, "vrpo", changes=changes)
    log = unbroken.run()

    def stop(row) -> None:
        if row["iteration"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tokenizer, problems, "vrpo", changes=changes, checkpoint=path, on_log=stop).run()
    resumed = trainer(tokenizer, problems, "vrpo", changes=changes, checkpoint=path)
    assert timeless(resumed.run()) == timeless(log)
    assert_same(weights(resumed), weights(unbroken))
    whole = tmp_path / "whole.safetensors"
    trainer(tokenizer, problems, "vrpo", checkpoint=whole).run()
    assert path.stat().st_size < whole.stat().st_size  # frozen weights are not in it


@pytest.mark.parametrize("method", ["vrpo", "grpo"])
@pytest.mark.parametrize("extra", [{}, {"lora": LORA}])
def test_gradient_checkpointing_changes_nothing(tokenizer, problems, method: str, extra) -> None:
    plain = trainer(tokenizer, problems, method, changes=extra)
    plain.run()
    frugal = trainer(tokenizer, problems, method, changes=extra | {"gradient_checkpointing": True})
    frugal.run()
    assert any(getattr(module, "gradient_checkpointing", False) for module in frugal.policy.modules())
    assert_same(weights(plain), weights(frugal), 1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", ["vrpo", "grpo"])
def test_half_precision_trains_float32_weights_close_to_float32(tokenizer, problems, method: str, precision: str) -> None:
    """One update on the same experience: the step goes where float32's goes."""
    steps = {}
    for kind in ("float32", precision):
        run = trainer(tokenizer, problems, method, precision=kind)
        group = run.algorithm.group_size
        if kind == "float32":
            experience, _ = run.collect([row for row in problems[: 32 // group] for _ in range(group)], [0] * 32, iteration=1)
        metrics = run.updater.step(experience, 1, True, run.critic is not None)
        assert all(parameter.dtype == torch.float32 for parameter in run.updater.models.parameters())
        flat = torch.cat([parameter.grad.flatten() for parameter in run.policy.parameters()])
        steps[kind] = (flat, metrics["policy/grad_norm"])
    a, b = steps["float32"][0], steps[precision][0]
    assert (a - b).abs().max() > 0  # it really computed in half precision
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.99
    assert steps[precision][1] == pytest.approx(steps["float32"][1], rel=0.05)


def test_float16_skips_a_step_that_overflows_and_goes_on(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "grpo", precision="float16")
    experience, _ = run.collect([row for row in problems[:8] for _ in range(4)], [0] * 32, iteration=1)
    before, scale = weights(run), run.updater.scaler.get_scale()
    huge = type(experience)(**{**vars(experience), "advantages": experience.advantages * 1e30})
    run.updater.step(huge, 1, True, False)
    assert_same(before, weights(run))
    assert run.updater.scaler.get_scale() < scale
    run.updater.step(experience, 1, True, False)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(run).items())


def test_lora_that_fits_nothing_is_named(tokenizer, problems) -> None:
    with pytest.raises(UserError, match="no_such_layer"):
        trainer(tokenizer, problems, "grpo", changes={"lora": {"target_modules": ["no_such_layer"]}})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]])
def test_adapters_on_one_of_two_tied_layers_are_saved_as_trained(tokenizer, problems, tmp_path, monkeypatch, modules, tied: bool) -> None:
    def policy(tokenizer):
        model = tiny_policy(tokenizer)
        if not tied:
            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(1.1 * model.lm_head.weight.detach())
        return model

    monkeypatch.setattr("tiny.tiny_policy", policy)
    run = trainer(tokenizer, problems, "grpo", changes={"lora": LORA | {"target_modules": modules}, "measure_every": 3})
    run.run()
    run.save_pretrained(tmp_path)
    ids = torch.tensor([tokenizer(problems[0]["prompt"], add_special_tokens=False)["input_ids"]])
    loaded, trained = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")(ids).logits, run.policy(ids).logits
    assert torch.allclose(loaded, trained, atol=1e-5)
    assert (trained - policy(tokenizer)(ids).logits).abs().max() > 1e-2
    with torch.no_grad(), run.policy.disable_adapter():
        assert run.policy.config.tie_word_embeddings == tied  # saving has left the run as it was


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_run_says_so_where_what_is_saved_is_not_what_was_trained(tokenizer, problems, tmp_path, method: str) -> None:
    run = trainer(tokenizer, problems, method)
    if run.critic is not None:
        torch.nn.init.normal_(run.critic.head.decoder[-1].weight)
    (run.policy.base_model if run.critic is None else run.critic.backbone).norm.variance_epsilon = 10.0  # not in the configuration
    with pytest.raises(UserError, match=f"{'policy' if method == 'grpo' else 'value_model'}: what was saved is not what was trained"):
        run.save_pretrained(tmp_path)
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_bfloat16_value_models_are_saved_as_they_are(tokenizer, tmp_path) -> None:
    policy = tiny_policy(tokenizer).to(torch.bfloat16)
    model = ValueModel.from_policy(policy, shared=False, depth=1, latent_size=4, seed=0, surprisal_inputs=True).eval()
    model.save_pretrained(tmp_path)
    loaded = ValueModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.score(tokenizer, ["1+2.:3"]) == loaded.score(tokenizer, ["1+2.:3"])
