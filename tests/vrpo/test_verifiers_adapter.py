"""Environments of the package verifiers: their data, their loop, their rubric, trained on here."""

import asyncio
import sys

import pytest
from tiny import config, tiny_policy

from vrpo.adapters.verifiers import from_verifiers
from vrpo.config import GenerationConfig
from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.errors import UserError
from vrpo.tasks.symbols import character_tokenizer
from vrpo.training.trainer import Trainer

try:
    import verifiers as vf
    from verifiers import MultiTurnEnv, Rubric, SingleTurnEnv
except ImportError:
    vf = MultiTurnEnv = None
needed = pytest.mark.skipif(vf is None, reason="needs the package verifiers, 0.2 or 0.3 (pip install 'verifiers>=0.2,<0.4')")


@pytest.fixture(scope="module")
def tokenizer():
    chat = character_tokenizer("0123456789+:")
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}:{% endfor %}"
    return chat


def sums(count=12):
    from datasets import Dataset

    return Dataset.from_list([{"question": f"{place}+1", "answer": str((place + 1) % 10)} for place in range(count)])


async def right(completion, answer) -> float:
    await asyncio.sleep(0)
    return float(completion[-1].content[-1:] == answer)


def short(completion, state) -> float:
    assert state["completion"] == completion
    return 1.0 / (1 + len(completion[-1].content))


def first_of_group(states) -> list[float]:
    return [float(place == 0) for place in range(len(states))]


def adding():
    return SingleTurnEnv(dataset=sums(), eval_dataset=sums(4), rubric=Rubric(funcs=[right, short], weights=[1.0, 0.5]))


def guessing(limit=3):
    class Guessing(MultiTurnEnv):
        """The user says 0 for too low and 9 for too high, and nothing more once the sum is there."""

        async def setup_state(self, state):
            state["guesses"] = 0
            return state

        async def env_response(self, messages, state, **_):
            state["guesses"] += 1
            guess, answer = messages[-1].content[-1:], state["answer"]
            if guess == answer:
                state["final_env_response"] = [{"role": "user", "content": "done"}]
                return state["final_env_response"]
            return [{"role": "user", "content": "0" if guess < answer else "9"}]

    def early(state) -> float:
        return 1.0 - 0.25 * state["guesses"]

    return Guessing(dataset=sums(), rubric=Rubric(funcs=[right, early]), max_turns=limit)


@needed
def test_rows_are_the_environments_data(tokenizer) -> None:
    given = from_verifiers(adding())
    assert given.environment is None and given.max_turns == 1 and len(given.validation) == 4
    row = given.problems[3]
    assert row["prompt"] == [{"role": "user", "content": "3+1"}] and row["id"] == "3" and row["input"]["answer"] == "4"
    assert from_verifiers(guessing()).validation == []


@needed
def test_rewards_are_the_rubrics_weighted_sum_asynchronous_ones_too() -> None:
    given = from_verifiers(adding())
    rows = given.problems[:2]
    asked = {"input": [row["input"] for row in rows], "id": ["0", "1"]}
    assert given.reward([row["prompt"] for row in rows], ["1", "345"], **asked) == [1.25, 0.125]

    async def within_a_loop():  # as in a notebook
        return given.reward([row["prompt"] for row in rows], ["1", "345"], **asked)

    assert asyncio.run(within_a_loop()) == [1.25, 0.125]


@needed
def test_responses_to_one_row_are_a_group() -> None:
    environment = SingleTurnEnv(dataset=sums(), rubric=Rubric(funcs=[first_of_group]))
    given = from_verifiers(environment)
    rows = [given.problems[place] for place in (0, 0, 1, 1)]
    assert given.reward([], ["1"] * 4, input=[row["input"] for row in rows]) == [1.0, 0.0, 1.0, 0.0]


@needed
def test_a_dialogue_is_answered_by_the_environments_own_loop_and_ends_with_it() -> None:
    given = from_verifiers(guessing())
    row = given.problems[4]  # 5
    assert given.environment(row, ["2"]) == "0" and given.environment(row, ["2", "7"]) == "9"
    assert given.environment(row, ["5"]) is None and given.environment(row, ["2", "5"]) is None
    assert given.environment(row, ["2", "2", "2"]) is None  # its own limit
    asked = {"input": [row["input"]] * 3}
    texts = [TURN_SEPARATOR.join(turns) for turns in (["2", "5"], ["2", "7", "1"], ["2", "7"])]  # the last one was cut before its end
    assert given.reward([], texts, **asked) == [0.0 + 0.5, 0.0 + 0.5, 0.0 + 0.5]


@needed
def test_an_error_of_the_environment_leaves_a_response_unscored() -> None:
    environment = guessing()

    async def fails(messages, state, **_):
        raise vf.Error("the simulator is down")

    environment.env_response = fails
    given = from_verifiers(environment)
    assert given.reward([], ["2" + TURN_SEPARATOR + "3"], input=[given.problems[0]["input"]]) == [None]


@needed
@pytest.mark.parametrize(("make", "method"), [(adding, "grpo"), (guessing, "vrpo")])
def test_it_is_trained_on(tokenizer, make, method) -> None:
    given = from_verifiers(make())
    options = {"method": method, "environment": given.environment, "validation": given.validation}
    generation = given.generation(max_new_tokens=3)
    run = Trainer(config(), tiny_policy(tokenizer), tokenizer, given.problems, given.reward, generation=generation, **options)
    log = run.run()
    assert len(log) == 4 and all(row["reward/unscored"] == 0 for row in log if "reward/unscored" in row)
    assert generation.max_turns == given.max_turns and run.policy_updates > 0
    assert ("validation/accuracy" in log[-1]) == bool(given.validation)


@needed
def test_what_cannot_be_trained_on_is_named() -> None:
    class Tools(MultiTurnEnv):
        async def env_response(self, messages, state, **_):
            return [{"role": "tool", "tool_call_id": "1", "content": "7"}]

    given = from_verifiers(Tools(dataset=sums(), rubric=Rubric(funcs=[right])))
    assert given.max_turns is None and given.generation().max_turns == GenerationConfig().max_turns
    with pytest.raises(UserError, match=r"Tools goes on with \[\('tool', '7'\)\]"):
        given.environment(given.problems[0], ["2"])
    with pytest.raises(UserError, match=r"'SingleTurn' \(list\) is no SingleTurnEnv|\['SingleTurn'\] \(list\) is no SingleTurnEnv"):
        from_verifiers(["SingleTurn"])


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(UserError, match=r"pip install 'verifiers>=0\.2,<0\.4'"):
        from_verifiers("my-environment")
