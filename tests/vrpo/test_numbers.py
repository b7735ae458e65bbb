"""Numbers at the edge: equal, huge and tiny rewards, ratios beyond exp(), padding, dropout, half precision, and what is said of them."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import METHODS, assert_same, count_digits, tiny_policy, trainer, weights

from vrpo.algorithms.advantages import group_relative_advantages, leave_one_out_advantages
from vrpo.algorithms.losses import clipped, kl_k1, kl_k3, policy_loss
from vrpo.config import GenerationConfig
from vrpo.critics.semantics import _statistics, head_statistics
from vrpo.data.masking import masked_centred, masked_mean, masked_var, masked_whiten
from vrpo.errors import UserError
from vrpo.metrics.critic import correlation, explained_variance
from vrpo.metrics.health import finite_metrics, health_warnings
from vrpo.metrics.rollout import reward_rounding
from vrpo.models.forward import policy_forward
from vrpo.rollout.sampler import new_sampler
from vrpo.rollout.samples import sample_texts

SIZES = [0.1, 12.3, -100.1, 1e6 + 0.3, 1e-30, 3e-41]


def all_advantages(scores: torch.Tensor) -> list[torch.Tensor]:
    """Of one group, by every way to get them from scores [B]."""
    mask = torch.ones_like(scores, dtype=torch.bool)
    grouped = [group_relative_advantages(scores, len(scores), scale=scale) for scale in (True, False)]
    return [*grouped, leave_one_out_advantages(scores, len(scores)), masked_centred(scores, mask), masked_whiten(scores, mask)]


@pytest.mark.parametrize("value", SIZES)
def test_equal_scores_have_no_advantage_whatever_their_size(value: float) -> None:
    for count in range(2, 18):
        assert all((advantages == 0).all() for advantages in all_advantages(torch.full((count,), value)))
    scores, scored = torch.full((12,), value), torch.tensor([True, False, True, True] * 3)
    spoilt = torch.where(scored, scores, 777.0)
    for found in (group_relative_advantages(spoilt, 4, scored), leave_one_out_advantages(spoilt, 4, scored), masked_whiten(spoilt, scored)):
        assert (found == 0).all()
    assert masked_var(scores[None], scored[None]) == 0
    assert math.isnan(explained_variance(torch.rand(1, 12), scores[None], scored[None]))
    assert math.isnan(correlation(scores, torch.rand(12)))


@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (1e-30, 0.0), (1e6, 0.0), (1e30, 0.0), (1.0, 1e6), (-3.0, 1e6)])
def test_normalised_advantages_do_not_depend_on_the_rewards_unit_or_offset(scale: float, shift: float) -> None:
    plain = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    changed = plain * scale + shift
    mask = torch.ones_like(plain, dtype=torch.bool)
    for normalise in (lambda x: group_relative_advantages(x, 8), lambda x: masked_whiten(x, mask)):
        assert torch.allclose(normalise(changed), math.copysign(1, scale) * normalise(plain), atol=1e-6)
    for unscaled in (lambda x: leave_one_out_advantages(x, 8), lambda x: masked_centred(x, mask)):
        assert torch.allclose(unscaled(changed), scale * unscaled(plain), rtol=1e-6, atol=0)


def test_advantages_of_broken_scores_are_broken_not_zero() -> None:
    for value in (math.nan, math.inf):
        assert not any(advantages.isfinite().all() for advantages in all_advantages(torch.tensor([1.0, 0.0, value, 1.0])))


@pytest.mark.parametrize("kl", [{}, {"kl_coefficient": 0.1}, {"kl_coefficient": 0.1, "kl_in": "reward"}])
@pytest.mark.parametrize("method", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce"])
def test_a_constant_reward_moves_no_weight(tokenizer, problems, method: str, kl: dict) -> None:
    def constant(prompts, responses, **columns):
        return [None if i % 3 == 0 else 12.3 for i in range(len(responses))]

    run = trainer(tokenizer, problems, method, reward=constant, changes=kl | {"iterations": 2, "rollouts": 64, "group_size": 16})
    before = weights(run)
    run.run()
    assert_same(before, weights(run))


def test_rewards_of_turns_in_another_order_are_the_same_score(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "grpo")
    experience, _ = run.collect(problems[:4], [0] * 4, iteration=1)
    mask = torch.ones(4, 3, dtype=torch.bool)
    rewards = torch.tensor([[0.1, 0.2, 0.4], [0.1, 0.4, 0.2], [0.2, 0.4, 0.1], [0.2, 0.1, 0.4]])
    assert len(set(rewards.sum(1).tolist())) > 1  # as float32 adds them up
    advantages, _ = run.algorithm.advantages(replace(experience, response_mask=mask), rewards)
    assert (advantages == 0).all()


def test_rewards_that_float32_cannot_tell_apart_are_said() -> None:
    assert reward_rounding([1e8, 1e8 + 1, None]) == {"reward/rounding": 1.0}
    for fine in ([1e6, 1e6 + 1], [12.3, 12.3], [0.1 + 0.2, 0.3], [0.1, 0.7], [None], []):
        assert reward_rounding(fine) == {}
    (warning,) = health_warnings([{"iteration": 1} | reward_rounding([1e8, 1e8 + 1])])
    assert warning.check == "reward resolution" and "100% of their spread" in warning.message


@pytest.mark.parametrize("log_ratio", [60.0, 120.0, 1e4])
@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
def test_a_huge_ratio_gives_finite_losses_and_gradients(log_ratio: float, advantage: float) -> None:
    new, old, advantages = torch.tensor([-1.0], requires_grad=True), torch.tensor([-1.0 - log_ratio]), torch.tensor([advantage])
    loss = policy_loss(new, old, advantages)
    loss.sum().backward()
    assert loss.isfinite().all() and new.grad.square().isfinite().all()
    assert (new.grad > 0).all() == (advantage < 0)  # it still learns to leave what it went to, and PPO's clip takes the rest
    assert clipped(new, old, advantages).item() == (advantage > 0)
    if advantage == 1.0:
        assert loss.item() == pytest.approx(-1.2)
    assert policy_loss(torch.tensor([-math.inf]), old, advantages).item() == pytest.approx(0.8 if advantage < 0 else 0.0)


@pytest.mark.parametrize("distance", [60.0, 128.0, 1e4])
def test_k3_far_from_the_reference_is_finite_and_points_back(distance: float) -> None:
    new = torch.tensor([-2.0 - distance, -2.0 + distance], requires_grad=True)
    k3 = kl_k3(new, torch.tensor([-2.0, -2.0]))
    k3.sum().backward()
    assert k3.isfinite().all() and (k3 > 0).all() and new.grad[0] < 0 < new.grad[1] and new.grad.square().isfinite().all()
    assert kl_k1(new, torch.tensor([-2.0, -2.0])).tolist() == [-distance, distance]
    assert kl_k3(torch.tensor([math.nan]), torch.tensor([-2.0])).isnan().all()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_padding_reaches_a_gradient(tokenizer, problems, method: str, monkeypatch) -> None:
    """Log-probabilities of padding that are -inf, also under the reference, and garbage in three- and four-dimensional fields."""
    gradients = []
    for garbage in (None, -math.inf, math.nan):
        run = trainer(tokenizer, problems, method, changes={"kl_coefficient": 0.1, "critic": {"surprisal_inputs": True}})
        rows = [row for row in problems[:8] for _ in range(4)]
        experience, _ = run.collect(rows, [0] * 32, iteration=1)
        padding = ~experience.response_mask
        if run.critic is not None:
            experience = replace(experience, latent_noise=run.algorithm.critic.noise(experience, run.seed, 1, 0))
        if garbage is not None:
            for name, value in vars(experience).items():
                if value is not None and value.is_floating_point():
                    experience = replace(
                        experience, **{name: value.clone().masked_fill(padding.view(*padding.shape, *[1] * (value.ndim - 2)), garbage)}
                    )

            def spoilt(*arguments, **options):
                output = policy_forward(*arguments, **options)
                mask = arguments[1].response_mask
                return replace(output, logprobs=torch.where(mask, output.logprobs, output.logprobs * 1e30 * 1e30))

            monkeypatch.setattr("vrpo.training.objective.policy_forward", spoilt)
        run.updater.step(experience, 1, True, "critic" in run.updater.optimizers)
        gradients.append({name: p.grad.clone() for name, p in run.updater.models.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        assert_same(gradients[0], other)


def test_suppressed_tokens_have_no_entropy_and_no_gradient(policy, tokenizer, problems) -> None:
    """Logits of -inf, as models have them for tokens that must not be said, at a low temperature."""
    bias = torch.zeros(len(tokenizer))
    bias[:4] = -math.inf
    policy.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    generation = GenerationConfig(max_new_tokens=6, temperature=0.1)
    _, (rollout,) = sample_texts(new_sampler(policy, tokenizer, generation), [row["prompt"] for row in problems[:6]], 2, seed=(0,))
    assert (rollout.responses[rollout.response_mask] >= 4).all()
    output = policy_forward(policy, rollout, 0.1)
    masked_mean(output.logprobs, rollout.response_mask).backward()
    assert output.entropy[rollout.response_mask].isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in policy.parameters())


def test_semantic_statistics_forgive_logits_of_minus_infinity() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.rand(1, 5, 8) + 0.1, torch.randn(11, 8)
    weight[3] = -math.inf  # of positive states: probability 0
    targets = torch.tensor([[0, 1, 2, 4, 5]])
    entropy, surprisal = head_statistics(hidden[0], weight, targets[0])
    kept = [i for i in range(11) if i != 3]
    expected = torch.distributions.Categorical(logits=hidden[0] @ weight[kept].T)
    assert torch.allclose(entropy, expected.entropy(), atol=1e-6)
    assert torch.allclose(surprisal, -expected.log_prob(torch.tensor([0, 1, 2, 3, 4])), atol=1e-6)
    assert all(part.isfinite().all() for part in _statistics(hidden[0] @ weight.T, targets[0]))  # the gradient is made of these


def with_dropout(tokenizer, **layers):
    """Architectures whose defaults drop activations, attention, whole layers, or blur a router."""
    import transformers as t

    torch.manual_seed(0)
    ids = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **ids)),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64, layerdrop=0.4, attention_dropout=0.3, **small, **ids
            )
        ),
        "falcon": lambda: t.FalconForCausalLM(t.FalconConfig(hidden_dropout=0.3, attention_dropout=0.3, **small, **ids)),
        "mixtral": lambda: t.MixtralForCausalLM(
            t.MixtralConfig(
                intermediate_size=32,
                num_key_value_heads=1,
                num_local_experts=4,
                router_jitter_noise=0.5,
                attention_dropout=0.3,
                **small,
                **ids,
            )
        ),
    }


@pytest.mark.parametrize("frugal", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "opt", "falcon", "mixtral"])
def test_the_ratio_is_one_before_a_step_whatever_the_model_drops(tokenizer, problems, name: str, frugal: bool) -> None:
    from tiny import config

    from vrpo.training.trainer import Trainer

    changes = {"gradient_checkpointing": frugal, "kl_coefficient": 0.1, "learning_rate": 1e-12, "lora": {"rank": 2, "dropout": 0.3}}
    if name == "mixtral":
        changes.pop("lora")  # its experts are no linear layers
    policy, settings = with_dropout(tokenizer)[name](), config(**changes)
    run = Trainer(
        settings,
        policy,
        tokenizer,
        problems,
        count_digits,
        method="vrpo" if name == "gpt2" else "grpo",
        generation=GenerationConfig(max_new_tokens=8),
    )
    experience, _ = run.collect([row for row in problems[:4] for _ in range(4)], [0, 1, 2, 3] * 4, iteration=1)
    if run.critic is not None:
        experience = replace(experience, latent_noise=run.algorithm.critic.noise(experience, run.seed, 1, 0))
    for _ in range(2):  # a step of 1e-12 leaves the policy where it is
        metrics = run.updater.update(experience, 1, steps=2, policy_epochs=1, critic_epochs=0)
        assert metrics["policy/clip_fraction"] == 0 and metrics["policy/kl_loss"] == 0


def test_gradient_checkpointing_computes_layers_again_in_the_backward_pass(tokenizer, problems) -> None:
    calls = {}
    for frugal in (False, True):
        run = trainer(tokenizer, problems, "ppo", changes={"gradient_checkpointing": frugal})
        experience, _ = run.collect(problems[:8], [0] * 8, iteration=1)
        calls[frugal] = 0

        def count(*_, frugal=frugal) -> None:
            calls[frugal] += torch.is_grad_enabled()

        for model in (run.policy, run.critic.backbone):
            model.get_submodule("model" if model is run.policy else "").layers[0].mlp.register_forward_pre_hook(count)
        run.updater.step(experience, 1, True, True)
    assert calls == {False: 2, True: 4}


def test_micro_batches_change_nothing_where_a_gradient_is_zero_but_for_rounding(tokenizer, problems) -> None:
    """The bias of a key has no effect; Adam would make whole steps of its gradient's rounding."""
    from tiny import config

    from vrpo.training.trainer import Trainer

    ends = []
    for size in (64, 4):
        policy = with_dropout(tokenizer)["gpt2"]()
        run = Trainer(
            config(micro_batch_size=size),
            policy,
            tokenizer,
            problems,
            count_digits,
            method="grpo",
            generation=GenerationConfig(max_new_tokens=8),
        )
        run.run()
        ends.append(weights(run))
    assert_same(*ends, 1e-4)


def test_lora_dropout_is_said_to_have_no_effect(tokenizer, problems, caplog) -> None:
    trainer(tokenizer, problems, "grpo", changes={"lora": {"rank": 2, "dropout": 0.1}})
    assert "train.lora.dropout = 0.1 has no effect" in caplog.text


def spoil_weight(policy):
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan


def too_large_for_half(policy):
    with torch.no_grad():
        policy.model.layers[1].mlp.down_proj.weight.mul_(1e6)
        policy.model.layers[1].mlp.up_proj.weight.mul_(1e3)


def too_large_for_all(policy):
    with torch.no_grad():
        policy.model.norm.weight.fill_(3e38)


@pytest.mark.parametrize(
    ("spoil", "kind", "temperature", "cause"),
    [
        (spoil_weight, torch.float32, 1.0, "weight model.layers.0.mlp.up_proj.weight holds NaN"),
        (too_large_for_half, torch.float16, 1.0, "too large for float16; use bfloat16 or float32"),
        (too_large_for_all, torch.float32, 1.0, "lower train.learning_rate"),
        (lambda policy: None, torch.float32, 1e-40, "raise it"),
    ],
)
def test_sampling_without_a_distribution_stops_and_says_why(tokenizer, problems, spoil, kind, temperature: float, cause: str) -> None:
    policy = tiny_policy(tokenizer)
    spoil(policy)
    generation = GenerationConfig(max_new_tokens=4, temperature=temperature)
    with torch.autocast("cpu", dtype=kind, enabled=kind != torch.float32), pytest.raises(UserError, match=cause) as error:
        sample_texts(new_sampler(policy, tokenizer, generation), [problems[0]["prompt"]], 2, seed=(0,))
    assert "logits of the next token are not finite" in str(error.value) and ("learning_rate" in str(error.value)) == (
        spoil is too_large_for_all
    )


def overflowing(run, times: float) -> None:
    """Multiply a run's advantages, so that gradients overflow float16."""
    estimate = run.algorithm.advantages

    def huge(experience, rewards):
        advantages, returns = estimate(experience, rewards)
        return advantages * times, returns

    run.algorithm.advantages = huge


def test_a_float16_run_that_never_steps_ends_as_an_error_and_skipped_steps_are_counted(tokenizer, problems, caplog) -> None:
    run = trainer(tokenizer, problems, "grpo", precision="float16")
    overflowing(run, 1e30)
    before = weights(run)
    with pytest.raises(UserError, match="the policy was never trained: each of its steps was skipped.*bfloat16 or float32"):
        run.run()
    assert_same(before, weights(run))
    assert run.policy_updates == 0 and [row.get("policy/skipped_steps") for row in run.log] == [None, 2.0, 2.0, 2.0]
    assert "half precision" in {warning.check for warning in run.health} and "4 steps of the policy" in caplog.text
    fine = trainer(tokenizer, problems, "grpo", precision="float16")
    fine.run()
    assert fine.policy_updates == 6 and not fine.health and all(row.get("policy/skipped_steps", 0.0) == 0.0 for row in fine.log)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_vrpo_runs_whole_in_half_precision_and_its_statistics_are_float32(tokenizer, problems, precision: str) -> None:
    run = trainer(tokenizer, problems, "vrpo", precision=precision, changes={"kl_coefficient": 0.1, "kl_in": "reward"})
    assert len(run.run()) == 4 and run.policy_updates == 6
    hidden, weight, targets = torch.randn(5, 8), torch.randn(11, 8), torch.arange(5)
    with run.updater.autocast():
        entropy, _ = head_statistics(hidden, weight, targets)
        logits = hidden @ weight.T
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=logits.float()).entropy(), atol=1e-6)


def spoilt_step(run, experience, **changes):
    return run.updater.step(replace(experience, **changes), 1, True, run.critic is not None)


def test_an_error_blames_the_learning_rate_only_where_nothing_else_explains_it(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "ppo")
    experience, _ = run.collect(problems[:16], [0] * 16, iteration=1)
    with pytest.raises(UserError, match="advantages of the responses hold NaN or infinity; look at the reward") as error:
        spoilt_step(run, experience, advantages=experience.advantages * math.nan)
    assert "learning_rate" not in str(error.value)
    with pytest.raises(UserError, match=r"critic's gradient is .*returns reach 1e\+25.*scale the reward down"):
        spoilt_step(run, experience, returns=experience.returns * 0 + 1e25)
    with pytest.raises(UserError, match=r"policy's gradient is inf .*advantages reach .*e\+30.*scale the reward down"):
        spoilt_step(run, experience, advantages=experience.advantages * 1e30)
    fresh = trainer(tokenizer, problems, "grpo")
    too_large_for_all(fresh.policy)
    with pytest.raises(UserError, match="no step has been taken yet, the model itself overflows"):
        spoilt_step(fresh, experience)
    run.updater.step(experience, 1, True, True)
    too_large_for_all(run.policy)  # as a learning rate that is too high leaves it
    with pytest.raises(UserError, match="policy's gradient is .*lower train.learning_rate"):
        spoilt_step(run, experience)
    with torch.no_grad():
        fresh.policy.lm_head.weight.fill_(math.nan)
    with pytest.raises(UserError, match="weight model.embed_tokens.weight holds NaN or infinity; use another copy"):
        spoilt_step(fresh, experience)


def test_metrics_that_are_no_numbers_are_a_warning_that_names_them() -> None:
    row = {"iteration": 3, "policy/loss": math.nan, "critic/mse": math.inf, "policy/kl": 0.1}
    (warning,) = health_warnings([{"iteration": 2}, row])
    assert warning.check == "undefined metrics" and "policy/loss, critic/mse NaN or infinite" in warning.message
    assert finite_metrics(row) == {"iteration": 3, "policy/kl": 0.1}
    by_definition = {"reward/true_positive_rate": math.nan, "critic/ev_observed": math.nan, "critic/corr_mc": math.nan}
    assert health_warnings([{"iteration": 3} | by_definition]) == []
    (warning,) = health_warnings([{"iteration": 3, "critic/ev_observed": -math.inf}])
    assert "critic/ev_observed" in warning.message


def test_ordinary_runs_warn_of_nothing_undefined(tokenizer, problems) -> None:
    """A constant reward leaves rates and fits undefined by definition."""
    run = trainer(tokenizer, problems, "vrpo", reward=lambda prompts, responses, **_: [1.0] * len(responses), clean_reward=count_digits)
    run.run()
    assert "undefined metrics" not in {warning.check for warning in run.health}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_refused_and_frozen_ones_are_not(tokenizer, problems, kind) -> None:
    from tiny import config

    from vrpo.models.supervised import fit_demonstrations
    from vrpo.training.trainer import Trainer

    policy = tiny_policy(tokenizer).to(kind)
    with pytest.raises(UserError, match=r"policy: the weights to be trained are \w*float16, .*call model.float\(\)"):
        Trainer(config(), policy, tokenizer, problems, count_digits)
    settings = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3, "seed": 0, "stage": "sft"}
    with pytest.raises(UserError, match="sft: the weights to be trained"):
        fit_demonstrations(policy, tokenizer, [{"prompt": "1+1.:", "completion": "2"}] * 2, **settings)
    run = Trainer(config(lora={"rank": 2}), tiny_policy(tokenizer).to(kind), tokenizer, problems, count_digits)
    assert all(parameter.dtype == torch.float32 for parameter in run.policy.parameters() if parameter.requires_grad)
