"""PF-PPO: which responses teach, and that the others do not."""

from dataclasses import replace

import pytest
import torch
from tiny import assert_same, count_digits, timeless, trainer, weights

from vrpo.algorithms.pf_ppo import best_and_worst
from vrpo.config import TrainConfig
from vrpo.data.batch import Experience
from vrpo.errors import UserError
from vrpo.training.trainer import Trainer


def uneven_scores(prompts, responses, **columns) -> list[float | None]:
    """With ties and without, and some that are not to be had."""
    pairs = zip(responses, count_digits(prompts, responses), strict=True)
    return [None if len(text) % 5 == 4 else score + 0.01 * (len(text) % 3) for text, score in pairs]


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([0.2, 0.9, 0.5, 0.1], [1, 3]),
        ([-3.0, -1.0, -2.0, -4.0], [1, 3]),
        ([1.0, 0.0, 1.0, 0.0], [0, 3]),  # ties rank as they were sampled
        ([0.0, 1.0, 1.0, 1.0], [0, 1]),
        ([1.0, 1.0, 1.0, 1.0], [0, 3]),  # without a difference two are kept as well
        ([None, 0.5, 0.7, 0.6], [1, 2]),
        ([None, -5.0, None, -5.0], [1, 3]),
        ([None, None, 0.3, None], [2]),
        ([None, None, None, None], []),
    ],
)
def test_the_best_and_the_worst_scored_response_of_a_group_are_kept(scores: list, kept: list[int]) -> None:
    other = [5.0, 7.0, 6.0, 6.5]  # beside it, of another level
    both = other + scores
    found = best_and_worst(torch.tensor([score or 0.0 for score in both]), 4, torch.tensor([score is not None for score in both]))
    assert found.nonzero().flatten().tolist() == [0, 1, *(4 + place for place in kept)]


def collected(run: Trainer, spoil=lambda experience: experience) -> Experience:
    """What is learned from six groups of four, which `spoil` changes before the filter."""
    own = run.algorithm.filtered
    run.algorithm.filtered = lambda experience: own(spoil(experience))
    return run.collect([row for row in run.problems[:6] for _ in range(4)], [0, 1, 2, 3] * 6, iteration=1)[0]


def kept_of(experience: Experience) -> torch.Tensor:
    return best_and_worst(experience.rewards.sum(1), 4, experience.scored)


def spoilt(experience: Experience, rows: torch.Tensor) -> Experience:
    """Other tokens, lengths, probabilities, values, advantages and targets in these rows; scores as they were."""
    scores, first = experience.rewards.sum(1), torch.arange(experience.responses.shape[1]) == 0
    floats = ("logprobs", "reference_logprobs", "values", "advantages", "returns")
    changed = dict.fromkeys(floats, torch.full_like(experience.rewards, -7.0)) | {
        "responses": experience.responses.flip(1),
        "response_mask": experience.response_mask & first,
        "rewards": scores[:, None] * first,
    }
    mixed = {name: torch.where(rows[:, None], value, getattr(experience, name)) for name, value in changed.items()}
    return replace(experience, **mixed)


@pytest.mark.parametrize("backbone", ["separate", "shared"])
def test_what_is_filtered_out_reaches_neither_policy_nor_critic(tokenizer, problems, backbone: str) -> None:
    def gradients(spoil) -> dict[str, torch.Tensor]:
        changes = {"kl_coefficient": 0.3, "micro_batch_size": 5, "critic": {"backbone": backbone}}
        run = trainer(tokenizer, problems, "pf_ppo", reward=uneven_scores, changes=changes)
        experience = collected(run, spoil)
        torch.manual_seed(1)
        with torch.no_grad():  # away from the sampling policy, so that ratios and divergences are not trivial
            for parameter in run.policy.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        run.updater.step(experience, 1, True, True)
        return {name: p.grad.clone() for name, p in run.updater.models.named_parameters() if p.grad is not None}

    plain = gradients(lambda experience: experience)
    assert_same(plain, gradients(lambda experience: spoilt(experience, ~kept_of(experience))))
    other = gradients(lambda experience: spoilt(experience, kept_of(experience)))
    assert max((plain[name] - other[name]).abs().max() for name in plain) > 1e-3


def test_advantages_are_normalised_over_what_is_kept(tokenizer, problems) -> None:
    run, whole = trainer(tokenizer, problems, "pf_ppo", reward=uneven_scores), []
    experience = collected(run, lambda experience: whole.append(experience) or experience)
    kept = kept_of(whole[0])
    assert len(whole[0]) == 24 and len(experience) == kept.sum() <= 12
    assert torch.equal(experience.responses, whole[0].responses[kept]) and experience.scored.all()
    assert torch.equal(experience.returns, whole[0].returns[kept])
    advantages = experience.advantages[experience.response_mask]
    assert abs(advantages.mean()) < 1e-5 and abs(advantages.var(correction=0) - 1) < 1e-3


def test_a_run_counts_all_it_samples_and_neither_kill_nor_micro_batches_change_it(tokenizer, problems, tmp_path) -> None:
    asked: list[int] = []

    def reward(prompts, responses, **columns):
        asked.append(len(responses))
        return uneven_scores(prompts, responses)

    def stop(row) -> None:
        if row["iteration"] == 2:
            raise KeyboardInterrupt

    measured = {"accuracy": count_digits, "clean_reward": count_digits}
    whole, path = trainer(tokenizer, problems, "pf_ppo", reward=reward, **measured), tmp_path / "state.safetensors"
    log = whole.run()
    assert sum(asked) == whole.rollouts == 96 and whole.policy_updates == 6
    assert all(row["policy/grad_norm"] > 0 and row["critic/grad_norm"] > 0 for row in log[1:])
    settings = {"reward": uneven_scores} | measured
    with pytest.raises(KeyboardInterrupt):
        trainer(tokenizer, problems, "pf_ppo", checkpoint=path, on_log=stop, **settings).run()
    resumed = trainer(tokenizer, problems, "pf_ppo", checkpoint=path, **settings)
    assert timeless(resumed.run()) == timeless(log)
    assert_same(weights(resumed), weights(whole))
    split = trainer(tokenizer, problems, "pf_ppo", changes={"micro_batch_size": 3}, batch_size=5, **settings)
    split.run()
    assert_same(weights(split), weights(whole), 1e-5)


def test_the_value_warm_up_is_that_of_ppo(tokenizer, problems) -> None:
    """Nothing is filtered, and its steps are as large."""
    pair = [trainer(tokenizer, problems, method, reward=uneven_scores) for method in ("ppo", "pf_ppo")]
    for run in pair:
        run.warm_up()
    assert_same(*map(weights, pair))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "train.group_size = 1: pf_ppo compares.*use 2 or more"),
        ({"critic": {"warmup_rollouts": 2004}}, "warmup_rollouts = 2004 is no multiple of iterations = 12 x group_size = 8.*use 1920"),
    ],
)
def test_what_cannot_be_filtered_or_spent_is_refused_before_any_sampling(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Trainer(TrainConfig.model_validate(changes), None, None, None, None, method="pf_ppo")
