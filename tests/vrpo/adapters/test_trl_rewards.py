"""TRL's convention of rewards: weights, None, conversations, columns, tokens, state, coroutines, noise."""

import statistics

import pytest
from small import ROWS, digits, new_trainer
from tiny import tiny_policy
from transformers import TrainerState

from vrpo import VRPOConfig, VRPOTrainer
from vrpo.adapters.rewards import CONVERSATION, NoisyRewards, Rewards
from vrpo.errors import UserError
from vrpo.rewards.noise import Noise
from vrpo.rewards.noise.flip import Flip

ASKED = {"step": 1, "samples": [0, 0, 0], "completion_ids": [[1], [2, 3], [4]]}


def lengths(completions, **columns) -> list[float]:
    return [float(len(text)) for text in completions]


def some(completions, **columns) -> list[float | None]:
    return [None if text == "a" else 10.0 for text in completions]


def test_several_are_added_with_their_weights_and_none_has_no_say() -> None:
    rewards = Rewards([lengths, some], [0.5, 2.0], TrainerState())
    assert rewards(["p"] * 3, ["a", "bb", "ccc"], **ASKED) == [0.5, 21.0, 21.5]
    assert rewards.metrics()["rewards/lengths/mean"] == 2.0 and rewards.metrics()["rewards/some/std"] == 0.0
    assert Rewards(some, None, None)(["p"] * 3, ["a", "bb", "a"], **ASKED) == [None, 10.0, None]


@pytest.mark.parametrize(
    ("functions", "weights", "message"),
    [
        ([], None, "reward_funcs = .*give a function"),
        (None, None, "reward_funcs"),
        ("org/reward-model", None, r"reward_funcs\[0\] is 'org/reward-model'"),
        ([lengths, some], [1.0], "reward_weights = .*1 weights for 2 reward functions"),
    ],
)
def test_what_is_no_reward_is_refused(functions, weights, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rewards(functions, weights, None)


def test_functions_get_what_trl_gives_them_and_no_more_than_they_take() -> None:
    state, seen = TrainerState(global_step=7), {}

    def all_of_it(prompts, completions, completion_ids, answer, trainer_state, log_metric, **others):
        seen.update(prompts=prompts, ids=completion_ids, answer=answer, state=trainer_state, others=set(others))
        log_metric("mine", 3.0)
        log_metric("mine", 5.0)
        return [0.0] * 3

    async def later(completions, **columns):
        return [1.0] * len(completions)

    rewards = Rewards([all_of_it, later, lambda completions, answer: [2.0] * 3], None, state)
    rewards.check(["prompt", "answer"])
    assert rewards(["p", "q", "r"], ["a", "b", "c"], answer=["1", "2", "3"], **ASKED) == [3.0] * 3
    assert seen == {
        "prompts": ["p", "q", "r"],
        "ids": ASKED["completion_ids"],
        "answer": ["1", "2", "3"],
        "state": state,
        "others": {"step", "samples"},
    }
    assert rewards.metrics()["mine"] == 4.0 and rewards.metrics()["rewards/later/mean"] == 1.0
    with pytest.raises(UserError, match="wants colour, which is no column"):
        Rewards(lambda completions, colour: [], None, state).check(["prompt", "answer"])


def test_conversations_are_messages_on_both_sides() -> None:
    seen = []
    messages = [{"role": "user", "content": "hello"}]
    rewards = Rewards(lambda prompts, completions, **columns: seen.append((prompts, completions, set(columns))) or [1.0] * 3, None, None)
    rewards(["text"] * 3, ["a", "b", "c"], **ASKED, **{CONVERSATION: [messages] * 3})
    (prompts, completions, columns) = seen[0]
    assert prompts == [messages] * 3 and completions[1] == [{"role": "assistant", "content": "b"}]
    assert columns == {"completion_ids", "trainer_state", "log_metric", "step", "samples"}


def test_noise_and_measurement_share_one_answer() -> None:
    asked = []

    def random(completions, **columns):
        asked.append(len(completions))
        return [float(len(asked) % 2)] * len(completions)

    clean = Rewards(random, None, None)
    noisy = NoisyRewards(clean, Noise([Flip(false_positive=1.0, false_negative=1.0)], 0))
    assert noisy(["p"] * 3, ["a", "b", "c"], **ASKED) == [0.0] * 3 and clean(["p"] * 3, ["a", "b", "c"], **ASKED) == [1.0] * 3
    assert asked == [3] and noisy(["p"] * 3, ["a", "b", "d"], **ASKED) == [1.0] * 3


def test_in_training_tokens_are_the_policys_and_curves_are_logged_by_function(tokenizer, tmp_path) -> None:
    seen = []

    def tokens(completions, completion_ids, answer, **columns):
        seen.extend(zip(completions, completion_ids, strict=True))
        return [len(ids) / 10 for ids in completion_ids]

    trainer = new_trainer(tokenizer, tmp_path, [digits, tokens], method="grpo", reward_weights=[0.0, 1.0], logging_steps=1)
    trainer.train()
    assert all(tokenizer.decode(ids, skip_special_tokens=True) == text and 1 <= len(ids) <= 6 for text, ids in seen)
    for row in trainer.trainer.log[1:]:
        assert row["rewards/tokens/mean"] == pytest.approx(row["length/mean"] / 10) == pytest.approx(row["reward/observed"])
        assert 0 <= row["rewards/digits/mean"] <= 1
    assert statistics.fmean(len(ids) for _, ids in seen) == pytest.approx(
        statistics.fmean(row["length/mean"] for row in trainer.trainer.log[1:])
    )


def test_a_reward_that_cannot_be_asked_is_told_before_anything_is_sampled(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="wants colour"):
        VRPOTrainer(tiny_policy(tokenizer), lambda completions, colour: [], VRPOConfig(str(tmp_path)), ROWS, processing_class=tokenizer)
    with pytest.raises(UserError, match="noise.0.*"):
        new_trainer(tokenizer, tmp_path, noise=[{"kind": "flp"}])
