"""The critic that takes the reward's place as far as it has earned it: closed form, gain, scale, and PPO where it has earned nothing."""

import numpy as np
import pytest
import torch
from tiny import assert_same, count_digits, timeless, trainer, weights

from vrpo.algorithms.advantages import compute_gae
from vrpo.algorithms.regulated import estimated_rewards
from vrpo.algorithms.regulated_gradient import gradient_moments, shrinkage
from vrpo.critics.regression import Regression
from vrpo.critics.skill import Skill
from vrpo.critics.value_model import ValueModel
from vrpo.data.masking import last_token
from vrpo.errors import UserError
from vrpo.models.states import backbone_of

BAYESIAN = {"critic": {"kind": "bayesian", "settings": {"inputs": "both"}}}


def rows(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of very different sizes, a constant among them, and targets with noise."""
    rng = np.random.default_rng(seed)
    inputs = torch.tensor(rng.normal(size=(count, 4)) * [1.0, 100.0, 0.01, 0.0] + [0.0, 5.0, 3.0, 2.0])
    return inputs, torch.tensor(0.5 + 0.1 * inputs[:, 0].numpy() - 0.001 * inputs[:, 1].numpy() + 0.3 * rng.normal(size=count))


def test_a_regression_is_the_least_squares_solution_where_its_prior_says_nothing() -> None:
    inputs, targets = rows(200)
    counts = torch.linspace(0.1, 2.0, 200)
    regression = Regression([1e6] * 4, forgetting=1.0)
    assert torch.equal(regression(inputs), torch.full((200,), 0.5))
    regression.absorb(inputs[:50], targets[:50], counts[:50])
    regression.absorb(inputs[50:], targets[50:], counts[50:])
    design = np.column_stack([inputs[:, :3].numpy(), np.ones(200)])
    root = np.sqrt(counts.numpy())[:, None]
    solution = np.linalg.lstsq(design * root, targets.numpy() * root[:, 0], rcond=None)[0]
    assert regression(inputs).numpy() == pytest.approx(design @ solution, abs=1e-5)


def test_a_prior_shrinks_by_the_same_share_in_any_unit_and_what_is_old_is_forgotten() -> None:
    inputs, targets = rows(40)
    plain, scaled = Regression([0.2] * 4, 0.9), Regression([0.2] * 4, 0.9)
    for part in (slice(0, 20), slice(20, 40)):
        plain.absorb(inputs[part], targets[part], torch.ones(20))
        scaled.absorb(inputs[part], 100 * targets[part] + 5, torch.ones(20))
    assert scaled(inputs).numpy() == pytest.approx(100 * plain(inputs).numpy() + 5, rel=1e-6)
    assert plain.precision[-1, -1] == pytest.approx(0.9 * 20 + 20)
    free = Regression([1e6] * 4, 0.9)
    free.absorb(inputs, targets, torch.ones(40))
    assert plain(inputs).std() < 0.9 * free(inputs).std()


def test_held_out_predictions_are_those_of_a_fit_without_the_row() -> None:
    inputs, targets = rows(30)
    regression = Regression([0.3] * 4, 1.0)
    regression.absorb(inputs, targets, torch.ones(30))
    held_out = regression.held_out(inputs, targets)
    for row in (0, 17):
        others = torch.arange(30) != row
        left = Regression([0.3] * 4, 1.0)
        left.location, left.scale = regression.location, regression.scale  # inputs are standardised by the first batch's moments
        left.precision[-1, -1] = 1e-12
        left.absorb(inputs[others], targets[others], torch.ones(29))
        assert float(held_out[row]) == pytest.approx(float(left(inputs[row])), abs=1e-5)


@pytest.mark.parametrize("flips", [0.1, 0.3, 0.4])
def test_the_gain_and_the_noise_are_right_on_synthetic_rewards(flips: float) -> None:
    """Rewards of 0 and 1 whose chances a critic knows up to errors of its own: skill and noise have known expectations."""
    rng = np.random.default_rng(3)
    chances = rng.uniform(size=20_000)
    clean = rng.uniform(size=20_000) < chances
    observed = np.where(rng.uniform(size=20_000) < flips, ~clean, clean).astype(float)
    critic = (1 - 2 * flips) * (chances + rng.normal(scale=0.3, size=20_000))
    skill = Skill(1.0)
    for part in np.split(np.arange(20_000), 10):
        skill.update(torch.tensor(critic[part]), torch.tensor(observed[part]))
    variance = 1 / 12
    correlation = (1 - 2 * flips) * variance / np.sqrt((variance + 0.09) * 0.25)
    assert skill.correlation == pytest.approx(correlation, abs=0.02)
    assert skill.gain == pytest.approx(1 / (20_000 * correlation**2), rel=0.35)
    assert skill.noise == pytest.approx(np.sqrt(0.25 * (1 - correlation**2)), rel=0.01)


def test_a_critic_without_skill_earns_nothing_on_average() -> None:
    rng = np.random.default_rng(4)
    gains = []
    for _ in range(300):
        skill = Skill(1.0)
        skill.update(torch.tensor(rng.normal(size=500)), torch.tensor((rng.uniform(size=500) < 0.5).astype(float)))
        gains.append(skill.gain)
    assert np.mean(np.array(gains) == 1.0) == pytest.approx(0.84, abs=0.06)  # P(z < 1)
    assert np.mean(np.array(gains) > 0.15) > 0.98
    wrong, outcomes = Skill(1.0), torch.tensor([0.0, 1.0] * 100)
    wrong.update(-outcomes, outcomes)
    assert wrong.gain == 1.0 and Skill(1.0).gain == 1.0
    constant = Skill(1.0)
    constant.update(torch.full((200,), 0.3), outcomes)
    assert constant.gain == 1.0 and constant.correlation == 0.0


def test_a_critic_that_is_pleased_without_rewards_loses_its_skill() -> None:
    """Within each batch it orders responses; from batch to batch its values rise and rewards do not."""
    rng = np.random.default_rng(5)
    honest, pleased = Skill(0.97), Skill(0.97)
    for batch in range(10):
        quality = rng.normal(size=200)
        outcomes = torch.tensor(quality + 3 * rng.normal(size=200))
        honest.update(torch.tensor(quality), outcomes)
        pleased.update(torch.tensor(quality + batch), outcomes)
    assert honest.gain < 0.01 < 5 * honest.gain < pleased.gain


def test_estimated_rewards_stand_on_the_last_token_alone() -> None:
    rewards, values = torch.tensor([[-0.1, 1.0, 0.0], [0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.4, 0.0], [0.0, 0.0, 0.8]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = estimated_rewards(rewards, values, mask, 0.25)
    assert found.numpy() == pytest.approx(np.array([[-0.1, 0.55, 0.0], [0.0, 0.0, 1.1]]))


def test_with_a_gain_of_one_it_is_ppo_with_the_same_critic_step_for_step(tokenizer, problems, monkeypatch) -> None:
    monkeypatch.setattr(Skill, "gain", 1.0)
    ppo = trainer(tokenizer, problems, "ppo", changes={"critic": {"kind": "bayesian"}})
    regulated = trainer(tokenizer, problems, "regulated")
    own = {"critic/gain", "critic/skill", "critic/evidence", "critic/noise"}
    assert timeless(ppo.run()) == [{k: v for k, v in row.items() if k not in own} for row in timeless(regulated.run())]


def test_a_gain_below_one_changes_the_policy_and_takes_noise_out(tokenizer, problems, monkeypatch) -> None:
    def noisy(prompts, responses, **columns):
        return [score if (columns["step"] + i) % 3 else 1 - score for i, score in enumerate(count_digits(prompts, responses))]

    shares = []
    for gain in (1.0, 0.2):
        monkeypatch.setattr(Skill, "gain", gain)
        log = trainer(tokenizer, problems, "regulated", reward=noisy, clean_reward=count_digits).run()
        shares.append(log[1]["advantage/noise_variance"])
    assert shares[1] == pytest.approx(0.04 * shares[0], rel=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 0.0), (1.0, 5.0), (0.01, -0.05)])
def test_rewards_in_another_unit_train_the_same_policy(tokenizer, problems, scale: float, shift: float) -> None:
    def other(prompts, responses, **columns):
        return [scale * score + shift for score in count_digits(prompts, responses)]

    runs = [trainer(tokenizer, problems, "regulated", reward=reward) for reward in (count_digits, other)]
    logs = [run.run() for run in runs]
    assert logs[0][-1]["critic/gain"] < 1.0  # or nothing of it was tried
    assert logs[1][-1]["critic/gain"] == pytest.approx(logs[0][-1]["critic/gain"], rel=1e-3)
    for (name, a), b in zip(runs[0].policy.named_parameters(), runs[1].policy.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-5, name


def test_the_critic_reads_the_frozen_cold_start_and_no_gradient_trains_it(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "regulated", changes=BAYESIAN)
    assert run.critic.reader is run.reference and run.critic.backbone is backbone_of(run.reference)
    assert set(run.updater.optimizers) == {"policy"} and not run.critic.backbone_learns
    log = run.run()
    assert "critic/grad_norm" not in log[-1] and log[0]["critic/gain"] == 1.0 and log[-1]["rollouts"] == 96


def test_a_rollout_never_scores_itself(tokenizer, problems) -> None:
    """Values of a fresh batch are the same whatever it earned."""
    values = []
    for offset in (0, 1):
        run = trainer(tokenizer, problems, "regulated")
        run.warm_up()
        run.reward = lambda prompts, responses, offset=offset, **_: [float((i + offset) % 2) for i in range(len(responses))]
        experience, _ = run.collect(problems[:8], [0] * 8, iteration=1)
        values.append((experience.values, experience.final_values))
    assert torch.equal(values[0][0], values[1][0]) and torch.equal(values[0][1], values[1][1])


@pytest.mark.parametrize("inputs", ["surprisal", "states", "both"])
def test_a_critic_in_closed_form_is_saved_and_read_back(tokenizer, problems, tmp_path, inputs: str) -> None:
    run = trainer(tokenizer, problems, "regulated", changes={"critic": {"settings": {"inputs": inputs}}})
    run.run()
    run.save_pretrained(tmp_path)
    experience, _ = run.collect(problems[:8], [0] * 8, iteration=9)
    loaded = ValueModel.from_pretrained(tmp_path / "value_model")
    assert (loaded.read(experience) - experience.values * experience.response_mask).abs().max() < 1e-5
    assert experience.values[experience.response_mask].std() > 0


def test_a_feature_that_was_constant_counts_from_the_first_batch_in_which_it_varies() -> None:
    """As all do whose cold start gave one response alone."""
    inputs, targets = rows(60)
    regression, whole = Regression([1e3] * 4, 1.0), Regression([1e3] * 4, 1.0)
    constant = torch.full((20, 4), 2.0)
    regression.absorb(constant, targets[:20], torch.ones(20))
    assert regression(inputs).std() < 1e-6
    regression.absorb(inputs, targets, torch.ones(60))
    whole.absorb(torch.cat([inputs, constant]), torch.cat([targets, targets[:20]]), torch.ones(80))
    assert regression(inputs).numpy() == pytest.approx(whole(inputs).numpy(), abs=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e37, 0.0), (1.0, 1e6), (0.01, -1e5)])
def test_skill_has_no_unit(scale: float, shift: float) -> None:
    found = []
    for a, b in ((1.0, 0.0), (scale, shift)):
        rng, skill = np.random.default_rng(6), Skill(0.9)
        for _ in range(4):
            quality = rng.normal(size=300)
            outcomes = (rng.uniform(size=300) < 0.5 + 0.1 * np.tanh(quality)).astype(float)
            skill.update(torch.tensor(a * 0.01 * quality + b), torch.tensor(a * outcomes + b))
        found.append((skill.gain, skill.correlation, skill.noise / a))
    assert found[0][0] < 0.2 and found[1] == pytest.approx(found[0], rel=1e-3)


def test_pooled_moments_are_those_of_weighted_pairs() -> None:
    rng, skill = np.random.default_rng(7), Skill(0.8)
    batches = [rng.normal(loc=place, size=(2, 30 + place)) for place in range(4)]
    for batch in batches:
        skill.update(torch.tensor(batch[0]), torch.tensor(batch[1]))
    weights = np.concatenate([np.full(batch.shape[1], 0.8 ** (3 - place)) for place, batch in enumerate(batches)])
    covariance = np.cov(np.concatenate(batches, axis=1), aweights=weights, ddof=0)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert skill.correlation == pytest.approx(correlation) and skill.evidence == pytest.approx(correlation * np.sqrt(weights.sum()))
    assert skill.noise == pytest.approx(np.sqrt(covariance[1, 1] * (1 - correlation**2)))


@pytest.mark.parametrize("reward", [0.1, 0.3, 5.1])
def test_equal_rewards_show_no_skill(tokenizer, problems, reward: float) -> None:
    log = trainer(tokenizer, problems, "regulated", reward=lambda prompts, responses, **_: [reward] * len(responses)).run()
    assert {row["critic/gain"] for row in log} == {1.0} and log[-1]["critic/noise"] < 1e-12


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_surprise_is_read_in_half_precision(tokenizer, problems, precision: str) -> None:
    log = trainer(tokenizer, problems, "regulated", precision=precision, changes=BAYESIAN).run()
    assert log[-1]["critic/gain"] < 1.0


def test_a_penalty_in_the_reward_is_left_as_it_is(tokenizer, problems, monkeypatch) -> None:
    """The last token's too: V_T is of the score before it, and so is the skill."""
    monkeypatch.setattr(Skill, "gain", 0.0)
    changes = {"kl_coefficient": 0.5, "kl_in": "reward", "learning_rate": 0.1, "gae_lambda": 1.0}
    run = trainer(tokenizer, problems, "regulated", changes=changes)
    run.run()
    experience, _ = run.collect(problems[:8], [0] * 8, iteration=9)
    penalty, mask, last = run.algorithm.penalty(experience), experience.response_mask, last_token(experience.response_mask)
    assert penalty[last].abs().max() > 0.1
    found = run.algorithm.advantages(experience, experience.rewards)[0]
    wanted = compute_gae(experience.final_values - penalty, experience.values, mask, 1.0, 1.0)
    assert (found - wanted).abs().max() < 1e-5
    seen = []
    monkeypatch.setattr(Skill, "update", lambda self, predictions, outcomes: seen.append(outcomes))
    run.algorithm.absorb(experience)
    assert set(seen[0].round(decimals=5).tolist()) <= {0.0, 1.0}


def test_with_adapters_one_frozen_copy_of_the_cold_start_is_kept(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "regulated", changes={"lora": {"rank": 2}})
    assert run.critic.backbone is backbone_of(run.critic.reader)
    assert run.run()[-1]["critic/gain"] < 1.0


def test_a_run_goes_on_after_an_interrupted_measurement_as_if_there_had_been_none(tokenizer, problems) -> None:
    """Gradients' passes over the warm-up are counted; what is absorbed must not be absorbed again."""
    whole, stopped = trainer(tokenizer, problems, "regulated"), trainer(tokenizer, problems, "regulated")
    measure, whole_log = stopped.measure, whole.run()

    def interrupted(critic: bool):
        raise KeyboardInterrupt

    stopped.measure = interrupted
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    stopped.measure = measure
    assert timeless(stopped.run()) == timeless(whole_log)


@pytest.mark.parametrize("inputs", ["surprisal", "both"])
def test_a_killed_value_warm_up_goes_on_with_the_same_result(tokenizer, problems, tmp_path, inputs: str) -> None:
    options = {"changes": {"critic": {"settings": {"inputs": inputs}}}}
    whole = trainer(tokenizer, problems, "regulated", **options)
    whole_log = whole.run()
    for place in ("absorb", "measure"):
        path = tmp_path / place
        stopped = trainer(tokenizer, problems, "regulated", checkpoint=path, **options)
        target = stopped.algorithm if place == "absorb" else stopped

        def killed(*_, **__):
            raise KeyboardInterrupt

        setattr(target, place, killed)
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
        resumed = trainer(tokenizer, problems, "regulated", checkpoint=path, **options)
        assert timeless(resumed.run()) == timeless(whole_log)
        assert_same(weights(resumed), weights(whole))


def test_what_cannot_be_regulated_is_refused(tokenizer, problems) -> None:
    with pytest.raises(UserError, match=r"train.critic.kind = 'plain'.*use bayesian"):
        trainer(tokenizer, problems, "regulated", changes={"critic": {"kind": "plain"}})
    with pytest.raises(UserError, match=r"train.critic.backbone = 'shared'.*separate"):
        trainer(tokenizer, problems, "regulated", changes={"critic": {"backbone": "shared"}})
    with pytest.raises(UserError, match=r"train.critic.settings.inputs.*'surprisal', 'states' or 'both'"):
        trainer(tokenizer, problems, "regulated", changes={"critic": {"settings": {"inputs": "all"}}})
    with pytest.raises(UserError, match=r"train.critic.settings.prior: .*greater than or equal to 0.001"):
        trainer(tokenizer, problems, "regulated", changes={"critic": {"settings": {"prior": 1e-200}}})
    with pytest.raises(UserError, match=r"train.critic.surprisal_inputs = True.*inputs = 'states'.*use both"):
        trainer(tokenizer, problems, "regulated", changes={"critic": {"surprisal_inputs": True, "settings": {"inputs": "states"}}})


def test_a_gradient_s_size_and_noise_are_told_apart() -> None:
    torch.manual_seed(0)
    true = torch.zeros(400)
    true[:4] = 0.5  # squared norm 1
    found = [gradient_moments(true + 0.2 * torch.randn(8, 400)) for _ in range(300)]
    assert np.mean([signal for signal, _ in found]) == pytest.approx(1.0, abs=0.06)
    assert np.mean([noise for _, noise in found]) == pytest.approx(0.04 * 400, rel=0.02)
    chance = [gradient_moments(0.2 * torch.randn(8, 400))[0] for _ in range(300)]
    assert abs(np.mean(chance)) < 0.06 and min(chance) < 0  # without bias: of either sign
    assert shrinkage(3.0, 1.0) == 0.75 and shrinkage(-1.0, 1.0) == 0.0 and shrinkage(0.0, 0.0) == 0.0
    assert all(np.isnan(gradient_moments([true])))


def test_what_a_critic_gets_wrong_systematically_is_left_to_the_reward(tokenizer, problems) -> None:
    """Rewards that surprise says nothing about: the gain of the residual's gradient is larger than with noise alone, whatever the skill."""

    def systematic(prompts, responses, **columns):
        return [float(text[:1] in "+-") for text in responses]

    def chance(prompts, responses, **columns):
        rng = np.random.default_rng(columns["step"])
        return [float(x) for x in rng.uniform(size=len(responses)) < 0.5]

    changes = {"rollouts": 960, "critic": {"warmup_rollouts": 480}}
    gains = {}
    for reward in (systematic, chance):
        runs = [trainer(tokenizer, problems, "regulated_gradient", seed=seed, reward=reward, changes=changes) for seed in range(3)]
        gains[reward] = sum(run.run()[1]["critic/gain"] for run in runs) / len(runs)
    assert gains[systematic] > 0.2 > 0.1 > gains[chance]


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_a_kl_term_is_no_part_of_the_residual_s_gradient(tokenizer, problems, kl_in: str) -> None:
    gains = []
    for coefficient in (0.0, 5.0):
        run = trainer(tokenizer, problems, "regulated_gradient", changes={"kl_coefficient": coefficient, "kl_in": kl_in})
        run.warm_up()
        gains.append(run.algorithm.gain)
    assert 0 <= gains[0] <= 1 and gains[1] == pytest.approx(gains[0], abs=1e-6)


def test_observing_changes_nothing_but_the_memory(tokenizer, problems) -> None:
    run = trainer(tokenizer, problems, "regulated_gradient")
    run.warm_up()
    experience, _ = run.collect(problems[:8], [0] * 8, iteration=1)
    before = {name: tensor.clone() for name, tensor in run.updater.models.state_dict().items()}
    run.observe(experience)
    after = run.updater.models.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"algorithm.residual"}
