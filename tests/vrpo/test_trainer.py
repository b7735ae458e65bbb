"""The loop: invariances, equivalences, exact resume, honest counting."""

from dataclasses import replace

import pytest
import torch
from tiny import METHODS, assert_same, count_digits, timeless, trainer, weights

from vrpo.data.batch import Rollout
from vrpo.data.text import decode
from vrpo.errors import UserError
from vrpo.rewards.experience import at_last_token, new_experience


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_run_and_resume_is_bit_exact(tokenizer, problems, tmp_path, method: str) -> None:
    unbroken = trainer(tokenizer, problems, method)
    log = unbroken.run()
    for stop_after in range(3):
        path = tmp_path / f"{method}-{stop_after}.safetensors"

        def stop(row, last=stop_after) -> None:
            if row["iteration"] == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trainer(tokenizer, problems, method, checkpoint=path, on_log=stop).run()
        seen: list = []
        resumed = trainer(tokenizer, problems, method, checkpoint=path, on_resume=seen.extend)
        assert timeless(resumed.run()) == timeless(log)
        assert [row["iteration"] for row in seen] == list(range(stop_after + 1))
        assert_same(weights(resumed), weights(unbroken))
    assert timeless(trainer(tokenizer, problems, method, seed=1).run()) != timeless(log)


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_and_generation_batches_change_nothing(tokenizer, problems, method: str) -> None:
    whole = trainer(tokenizer, problems, method)
    whole.run()
    split = trainer(tokenizer, problems, method, changes={"micro_batch_size": 3}, batch_size=5)
    split.run()
    assert_same(weights(whole), weights(split), 1e-5)


@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_vrpo_without_its_three_changes_is_ppo_step_for_step(tokenizer, problems, backbone: str) -> None:
    ppo = trainer(tokenizer, problems, "ppo", changes={"critic": {"backbone": backbone}})
    off = {"backbone": backbone, "depth": 0, "beta": 0.0, "entropy_weight": 0.0, "perplexity_weight": 0.0}
    vrpo = trainer(tokenizer, problems, "vrpo", changes={"critic": off})
    shared_keys = ("iteration", "rollouts", "reward/observed", "policy/loss", "critic/mse", "policy/grad_norm", "critic/grad_norm")
    for a, b in zip(ppo.run(), vrpo.run(), strict=True):
        assert {key: a.get(key) for key in shared_keys} == {key: b.get(key) for key in shared_keys}
    theirs = weights(vrpo)
    theirs.pop("critic.lm_head")
    assert_same(weights(ppo), theirs)


@pytest.mark.parametrize(
    "change", [{"beta": 0.5}, {"entropy_weight": 2.0}, {"perplexity_weight": 2.0}, {"depth": 2}, {"activation_ratio": 0.2}]
)
def test_each_of_vrpos_parts_changes_the_critic(tokenizer, problems, change) -> None:
    plain = trainer(tokenizer, problems, "vrpo").run()
    changed = trainer(tokenizer, problems, "vrpo", changes={"critic": change}).run()
    assert plain[1]["critic/grad_norm"] != changed[1]["critic/grad_norm"]


@pytest.mark.parametrize("method", ["ppo", "vrpo"])
def test_surprisal_inputs_reach_the_values_and_resume(tokenizer, problems, tmp_path, method: str) -> None:
    changes, path = {"micro_batch_size": 7, "critic": {"surprisal_inputs": True}}, tmp_path / "state.safetensors"
    run = trainer(tokenizer, problems, method, changes=changes)
    log = run.run()
    experience, _ = run.collect(problems[:16], [0] * 16, iteration=3)
    blind = run.critic.head(run.critic.states(experience), inputs=torch.zeros_like(experience.critic_inputs)).values
    difference = (blind - experience.values)[experience.response_mask].abs()
    assert difference.max() > 1e-3 and experience.critic_inputs[~experience.response_mask].abs().max() == 0

    def stop(row) -> None:
        if row["iteration"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tokenizer, problems, method, changes=changes, checkpoint=path, on_log=stop).run()
    assert timeless(trainer(tokenizer, problems, method, changes=changes, checkpoint=path).run()) == timeless(log)


def test_what_is_frozen_of_the_cold_start_is_held_once(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, changes={"critic": {"surprisal_inputs": True}})
    assert run.critic.reader is run.reference
    assert run.critic.lm_head.data_ptr() == run.reference.get_output_embeddings().weight.data_ptr()
    before = run.reference.get_output_embeddings().weight.clone()
    run.run()
    assert torch.equal(run.reference.get_output_embeddings().weight, before)
    learned = trainer(tokenizer, problems, changes={"critic": {"semantic_head": "learned"}})
    assert learned.critic.lm_head.data_ptr() != learned.reference.get_output_embeddings().weight.data_ptr()


def test_semantic_head_stays_frozen_or_learns(tokenizer, problems) -> None:
    for kind, moves in (("frozen", False), ("learned", True)):
        run = trainer(tokenizer, problems, "vrpo", changes={"critic": {"semantic_head": kind}})
        before, norm = run.critic.lm_head.detach().clone(), run.critic.backbone.norm.weight.detach().clone()
        run.run()
        assert (not torch.equal(run.critic.lm_head, before)) == moves
        assert (not torch.equal(run.critic.backbone.norm.weight, norm)) == moves


def test_policy_rests_during_value_warmup_also_with_a_shared_backbone(tokenizer, problems) -> None:
    for backbone in ("separate", "shared"):
        run = trainer(tokenizer, problems, "vrpo", changes={"critic": {"backbone": backbone}})
        before = {name: tensor.clone() for name, tensor in run.policy.state_dict().items()}
        head = run.critic.head.decoder[0].weight.detach().clone()
        run.warm_up()
        assert_same(before, dict(run.policy.state_dict()))
        assert not torch.equal(run.critic.head.decoder[0].weight, head)


def test_methods_are_matched_in_rollouts_and_policy_updates(tokenizer, problems) -> None:
    totals = set()
    for method in METHODS:
        asked = []

        def reward(prompts, responses, asked=asked, **columns):
            asked.append((columns["step"], len(responses)))
            return count_digits(prompts, responses)

        run = trainer(tokenizer, problems, method, reward=reward, clean_reward=count_digits)
        run.run()
        assert sum(count for _, count in asked) == run.rollouts
        totals.add((run.rollouts, run.policy_updates))
    assert totals == {(96, 6)}


def test_unscored_responses_leave_every_loss_and_are_counted(tokenizer, problems) -> None:
    def half(prompts, responses, **columns):
        return [None if i % 2 else score for i, score in enumerate(count_digits(prompts, responses))]

    run = trainer(tokenizer, problems, "vrpo", reward=half)
    log = run.run()
    assert all(row["reward/unscored"] == 0.5 for row in log)
    rollout = Rollout(*(torch.ones(2, 3, dtype=kind) for kind in (torch.long, torch.bool, torch.long, torch.bool, torch.float)))
    experience = new_experience(rollout, [1.0, None])
    assert experience.rewards.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert experience.response_mask.tolist() == [[True] * 3, [False] * 3]


def test_a_minibatch_without_a_scored_token_is_no_update_and_enters_no_mean(tokenizer, problems) -> None:
    found = []
    for steps in (1, 4):  # with four, three hold nothing
        run = trainer(tokenizer, problems, "vrpo")
        experience, _ = run.collect(problems[:16], [0] * 16, iteration=1)
        one = torch.arange(16)[:, None] == 3
        masks = {name: getattr(experience, name) & one for name in ("response_mask", "entropy_mask", "surprisal_mask")}
        metrics = run.update(replace(experience, **masks), 1, steps=steps, policy_epochs=1, critic_epochs=1)
        assert run.policy_updates == 1 and metrics["policy/entropy"] > 0 and metrics["policy/grad_norm"] > 0
        found.append(metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_rewards_that_are_wrong_in_kind_stop_the_run_with_a_name(tokenizer, problems) -> None:
    with pytest.raises(UserError, match="reward 0 in iteration 0 is nan"):
        trainer(tokenizer, problems, "ppo", reward=lambda prompts, responses, **_: [float("nan")] * len(responses)).run()
    with pytest.raises(UserError, match="1 scores for 24 responses"):
        trainer(tokenizer, problems, "ppo", reward=lambda prompts, responses, **_: [1.0]).run()


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tokenizer, problems, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    run = trainer(tokenizer, problems, "ppo", checkpoint=path, changes={"lr_warmup": 0})
    spoil = run.algorithm.advantages

    def estimate(experience, rewards):
        advantages, returns = spoil(experience, rewards)
        return advantages * (float("nan") if run.iteration >= 1 else 1.0), returns

    run.algorithm.advantages = estimate
    with pytest.raises(UserError, match="policy's gradient is nan in iteration 2.*the advantages of the responses hold NaN"):
        run.run()
    assert trainer(tokenizer, problems, "ppo", checkpoint=path, changes={"lr_warmup": 0}).run()[-1]["iteration"] == 3


def test_checkpoint_refuses_another_run_by_name(tokenizer, problems, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    trainer(tokenizer, problems, "ppo", checkpoint=path).run()
    with pytest.raises(UserError, match="config.learning_rate was 0.01, now 0.02"):
        trainer(tokenizer, problems, "ppo", checkpoint=path, changes={"learning_rate": 0.02}).run()
    with pytest.raises(UserError, match="data was"):
        trainer(tokenizer, problems[1:], "ppo", checkpoint=path).run()
    with pytest.raises(UserError, match="method was 'ppo', now 'vrpo'"):
        trainer(tokenizer, problems, "vrpo", checkpoint=path).run()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="broken checkpoint"):
        trainer(tokenizer, problems, "ppo", checkpoint=path).run()


def test_padding_content_never_reaches_a_loss(tokenizer, problems) -> None:
    """Garbage planted in masked places of an experience leaves every gradient as it was."""
    gradients = []
    for garbage in (0.0, 999.0, float("nan")):
        run = trainer(tokenizer, problems, "vrpo")
        rows = problems[:40]
        experience, _ = run.collect(rows, [0] * 40, iteration=1)
        experience = replace(experience, latent_noise=run.algorithm.critic.noise(experience, run.seed, 1, 0))
        hidden_from_loss = ~experience.response_mask
        for name in ("logprobs", "rewards", "values", "advantages", "returns", "reference_logprobs"):
            value = getattr(experience, name).clone()
            value[hidden_from_loss] = garbage
            experience = replace(experience, **{name: value})
        assert hidden_from_loss.any()
        run.updater.step(experience, 1, True, True)
        gradients.append({name: p.grad.clone() for name, p in run.updater.models.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        assert_same(gradients[0], other)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_in_a_batch_changes_nothing(tokenizer, problems, method: str) -> None:
    gradients = []
    for order in (torch.arange(32), torch.randperm(32, generator=torch.Generator().manual_seed(0))):
        run = trainer(tokenizer, problems, method, changes={"micro_batch_size": 5})
        group = run.algorithm.group_size
        experience, _ = run.collect([row for row in problems[: 32 // group] for _ in range(group)], [0] * 32, iteration=1)
        if run.critic is not None:
            experience = replace(
                experience, latent_noise=torch.randn(*experience.responses.shape, 1, 4, generator=torch.Generator().manual_seed(1))
            )
        run.updater.step(experience[order], 1, True, "critic" in run.updater.optimizers)
        gradients.append({name: p.grad.clone() for name, p in run.updater.models.named_parameters() if p.grad is not None})
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())
    assert_same(*gradients, 1e-5)


def test_the_references_logprobs_are_computed_once_and_the_rollouts_not_again(tokenizer, problems) -> None:
    """Forward passes of an iteration: one by the reference over each micro-batch, one by the policy for each of its steps."""
    run = trainer(tokenizer, problems, "grpo", changes={"micro_batch_size": 8, "kl_coefficient": 0.1, "iterations": 1, "rollouts": 32})
    seen = {"reference": 0, "policy": 0}
    for name, model in (("reference", run.reference), ("policy", run.policy)):

        def count(module, arguments, keywords, name=name) -> None:
            seen[name] += len(keywords["input_ids"]) if not keywords["use_cache"] else 0

        model.register_forward_pre_hook(count, with_kwargs=True)
    run.run()
    assert seen == {"reference": 32, "policy": 32}


def test_health_checks_are_metrics_and_warn_once(tokenizer, problems, caplog) -> None:
    changes = {"critic": {"beta": 50.0}, "iterations": 3}
    log = trainer(tokenizer, problems, "vrpo", changes=changes).run()
    assert all(row["health/latent_kl_dominates"] == 1.0 for row in log) and log[-1]["health/length_inflation"] == 0.0
    assert sum("latent KL dominates" in record.message for record in caplog.records) == 1


def test_length_adaptive_lambda_changes_the_policys_advantages_only(tokenizer, problems) -> None:
    plain, adaptive = (
        trainer(tokenizer, problems, "ppo", changes={"length_adaptive_alpha": alpha, "gae_lambda": 0.5}) for alpha in (None, 0.05)
    )
    experience, other = (run.collect(problems[:16], [0] * 16, iteration=1)[0] for run in (plain, adaptive))
    score = experience.rewards.sum(1, keepdim=True)  # the targets' own lambda is 1
    assert torch.allclose(experience.returns, score * experience.response_mask, atol=1e-6) and torch.equal(
        experience.returns, other.returns
    )
    assert not torch.allclose(experience.advantages, other.advantages)


def test_kl_in_the_reward_is_a_penalty_on_every_token(tokenizer, problems) -> None:
    for method in ("ppo", "reinforce_pp"):
        run = trainer(tokenizer, problems, method, changes={"kl_coefficient": 0.5, "kl_in": "reward"})
        run.run()  # away from the reference
        experience, _ = run.collect(problems[:16], [0] * 16, iteration=3)
        mask, penalty = experience.response_mask, 0.5 * (experience.logprobs - experience.reference_logprobs)
        scores = torch.tensor(count_digits([], decode(tokenizer, experience)))
        assert penalty[mask].abs().max() > 1e-2
        assert torch.allclose(experience.rewards, at_last_token(scores, mask) - penalty * mask, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_advantages_are_whitened_where_the_method_says_so(tokenizer, problems, method: str) -> None:
    run = trainer(tokenizer, problems, method)
    group = run.algorithm.group_size
    experience, _ = run.collect([row for row in problems[: 32 // group] for _ in range(group)], [0] * 32, iteration=1)
    advantages = experience.advantages[experience.response_mask]
    whitened = method in ("ppo", "vrpo", "regulated", "regulated_gradient", "reinforce_pp")
    assert (abs(advantages.var(correction=0).item() - 1) < 1e-3) == whitened
    assert (abs(advantages.mean().item()) < 1e-5) == (whitened or method == "reinforce")
    assert (experience.advantages[~experience.response_mask] == 0).all()


def test_latents_are_drawn_anew_for_every_pass_and_run(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "vrpo")
    experience, _ = run.collect(problems[:8], [0] * 8, iteration=1)
    draws = [run.algorithm.critic.noise(experience, run.seed, iteration, epoch) for iteration, epoch in ((1, 0), (1, 1), (2, 0))]
    draws.append(run.algorithm.critic.noise(experience, 1, 1, 0))  # of another run's seed
    assert len({float(draw[0, 0, 0, 0]) for draw in draws}) == 4
    assert torch.equal(run.algorithm.critic.noise(experience, run.seed, 1, 0), draws[0])


def test_score_lands_on_the_last_response_token() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    assert at_last_token(torch.tensor([2.0, 3.0, 9.0]), mask).tolist() == [[0, 2, 0], [0, 0, 3], [0, 0, 0]]


def test_learning_works(tokenizer, problems) -> None:
    """All methods raise a reward that is easy to raise."""

    def mostly_digits(prompts, responses, **columns):
        return [float(sum(c.isdigit() for c in text) >= 0.8 * max(len(text), 1)) for text in responses]

    for method in METHODS:
        changes = {
            "iterations": 10,
            "rollouts": 680,
            "minibatches": 4,
            "learning_rate": 2e-2,
            "lr_warmup": 0,
            "critic": {"warmup_rollouts": 40},
        }
        log = trainer(tokenizer, problems, method, reward=mostly_digits, changes=changes).run()
        rewards = [row["reward/observed"] for row in log if "policy/loss" in row]
        assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.2, method


@pytest.mark.parametrize("method", ["vrpo", "grpo"])
def test_every_repeat_of_a_prompt_in_an_iteration_is_a_sample_of_its_own(tokenizer, problems, method: str) -> None:
    """Noise is drawn by iteration, problem and sample: one key twice would be one flip for both."""
    keys = []

    def reward(prompts, responses, *, id, step, samples, **columns):
        keys.extend((step, problem, sample) for problem, sample in zip(id, samples, strict=True))
        return count_digits(prompts, responses)

    run = trainer(tokenizer, problems[:7], method, reward=reward, clean_reward=count_digits, changes={"monte_carlo_prefixes": 0})
    run.run()
    assert len(keys) == len(set(keys)) == run.rollouts == 96
    assert max(sample for _, _, sample in keys) >= 3


def test_logged_losses_are_not_those_times_their_weight(tokenizer, problems) -> None:
    light, full = {}, {}
    for metrics, weight in ((light, 0.25), (full, 1.0)):
        run = trainer(tokenizer, problems, "vrpo", changes={"critic": {"loss_weight": weight}})
        experience, _ = run.collect(problems[:16], [0] * 16, iteration=1)
        experience = replace(experience, latent_noise=run.algorithm.critic.noise(experience, run.seed, 1, 0))
        metrics |= run.updater.step(experience, 1, False, True)
    losses = [f"critic/{name}" for name in ("mse", "kl", "semantic")]
    assert {name: light[name] for name in losses} == {name: full[name] for name in losses} and full["critic/mse"] > 0
    assert light["critic/grad_norm"] == pytest.approx(0.25 * full["critic/grad_norm"], rel=1e-4)


def test_nothing_scored_is_no_accuracy_of_zero(tokenizer, problems) -> None:
    unknown = {"clean_reward": lambda prompts, responses, **_: [None] * len(responses)}
    with pytest.raises(UserError, match="validation data"):
        trainer(tokenizer, problems, "ppo", **unknown).measure(critic=True)
    run = trainer(tokenizer, problems, "ppo", accuracy=lambda prompts, responses, **_: [0.25] * len(responses), clean_reward=count_digits)
    assert run.measure(critic=False)["validation/accuracy"] == 0.25


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_monte_carlo_check_decodes_in_batches_and_at_the_run_s_precision(tokenizer, problems, precision: str) -> None:
    run, seen = trainer(tokenizer, problems, "ppo", precision=precision, batch_size=3), []

    def hook(module, arguments, keywords) -> None:
        seen.append((len(keywords["input_ids"]), torch.is_autocast_enabled("cpu")))

    for model in (run.policy, run.critic.backbone):
        model.register_forward_pre_hook(hook, with_kwargs=True)
    run.measure(critic=True)
    assert max(rows for rows, _ in seen) == 3 and {cast for _, cast in seen} == {precision == "bfloat16"}
