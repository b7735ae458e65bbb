"""Rewards as users write them: which arguments they take, which numbers they return, how they fail."""

import time
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy
import pandas
import pytest
import torch
from tiny import count_digits, trainer

from vrpo.data.batch import Rollout
from vrpo.errors import UserError
from vrpo.rewards.calling import call_reward, check_reward
from vrpo.rewards.experience import new_experience

ROWS = [{"prompt": f"p{i}", "answer": str(i)} for i in range(3)]
TEXTS = ["a", "b", "c"]
PROMPTS, ANSWERS, SAMPLES = ["p0", "p1", "p2"], ["0", "1", "2"], [0, 1, 0]


def ask(reward, **options):
    check_reward(reward, ["answer"])
    return call_reward(reward, ROWS, TEXTS, 4, SAMPLES, **options)


class Judge:
    def __call__(self, prompts, responses, **columns):
        return [1.0, 0.0, 1.0]

    def judge(self, completions, **columns):
        return [1.0, 0.0, 1.0]


class Module(torch.nn.Module):
    def forward(self, prompts, responses):
        return torch.tensor([1.0, 0.0, 1.0], requires_grad=True)


def by_place(prompts, responses, /, answer):
    return [float((p, r, a) != ("p1", "b", "1")) for p, r, a in zip(prompts, responses, answer, strict=True)]


def right(prompts, texts, answers=ANSWERS) -> list[float]:
    """1, 0, 1 where every argument is what it should be."""
    return [float(p == f"p{a}" and t == TEXTS[int(a)] and a != "1") for p, t, a in zip(prompts, texts, answers, strict=True)]


CALLABLES = {
    "house": lambda prompts, responses, **columns: right(prompts, responses, columns["answer"]),
    "own names": lambda p, r, **columns: right(p, r, columns["answer"]),
    "no columns": lambda prompts, responses: right(prompts, responses),
    "own names, no columns": lambda p, r: right(p, r),
    "first name of its own": lambda questions, responses, answer: right(questions, responses, answer),
    "a column's name for the prompts": lambda answer, text, step: right(answer, text),
    "one column": lambda prompts, responses, answer: right(prompts, responses, answer),
    "step alone": lambda prompts, responses, step: right(prompts, responses) if step == 4 else None,
    "samples alone": lambda prompts, responses, *, samples: right(prompts, responses) if samples == SAMPLES else None,
    "TRL": lambda completions, **columns: right(columns["prompts"], completions, columns["answer"]),
    "TRL with prompts": lambda prompts, completions, **columns: right(prompts, completions, columns["answer"]),
    "TRL in another order": lambda completions, prompts, answer: right(prompts, completions, answer),
    "TRL with a default": lambda completions, prompts, weight=1.0, **columns: right(prompts, completions) if weight == 1.0 else None,
    "names only": lambda *, completions, prompts: right(prompts, completions),
    "everything by name": lambda **columns: right(columns["prompts"], columns["completions"], columns["answer"]),
    "everything": lambda *arguments, **columns: right(*arguments, columns["answer"]),
    "the rest by place": lambda prompts, *rest, **columns: right(prompts, *rest, columns["answer"]),
    "by place": by_place,
    "defaults": lambda p=None, r=None: right(p, r),
    "partial": partial(lambda scale, prompts, responses: [scale * x for x in right(prompts, responses)], 1.0),
    "partial by name": partial(lambda completions, prompts, scale: right(prompts, completions), scale=2.0),
    "instance": Judge(),
    "method": Judge().judge,
    "module": Module(),
}


@pytest.mark.parametrize("reward", CALLABLES.values(), ids=CALLABLES.keys())
def test_a_reward_gets_the_arguments_it_names(reward) -> None:
    assert ask(reward) == [1.0, 0.0, 1.0]


def test_house_rewards_get_the_columns_and_no_second_copy_of_the_responses() -> None:
    seen = []
    ask(lambda prompts, responses, **columns: seen.append(columns) or right(prompts, responses))
    ask(lambda completions, **columns: seen.append(columns) or [1.0] * 3)
    house = {"answer": ANSWERS, "step": 4, "samples": SAMPLES}
    assert seen == [house, house | {"prompts": PROMPTS}]


async def later(prompts, responses):
    return [1.0] * len(responses)


class Later:
    async def __call__(self, prompts, responses):
        return [1.0] * len(responses)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (None, "the reward is None, no function"),
        ([count_digits], r"the reward is \[.*\(list\), no function"),
        ("org/reward-model", "the reward is 'org/reward-model', no function"),
        (later, "the reward later is a coroutine function"),
        (Later(), "the reward Later is a coroutine function"),
        (partial(later), "the reward later is a coroutine function"),
        (
            lambda completions, solution: [],
            "wants solution, which is no column of the data; there are prompts, .*answer, completion_ids, step, samples",
        ),
        (lambda prompts, responses, *, solution, hint: [], "wants solution, hint"),
        (lambda x: [], r"\(x\) does not say where it takes the responses"),
        (lambda prompts, answer: [], r"\(prompts, answer\) does not say where it takes the responses"),
        (len, r"len\(obj, /\) does not say where"),
        (Judge, r"Judge\(\) does not say where"),
    ],
)
def test_a_reward_that_cannot_be_asked_is_refused_at_construction(tokenizer, problems, reward, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tokenizer, problems, reward=reward)


def test_a_column_that_the_held_out_rows_lack_is_named_at_construction(tokenizer, problems) -> None:
    labelled = [row | {"label": "1"} for row in problems]
    trainer(tokenizer, labelled, reward=lambda prompts, responses, label: [1.0])
    with pytest.raises(UserError, match="wants label"):
        trainer(tokenizer, problems, reward=lambda prompts, responses, label: [1.0])
    with pytest.raises(UserError, match="wants label"):
        trainer(tokenizer, problems, clean_reward=lambda prompts, responses, label: [1.0])


NUMBERS = {
    "array": numpy.array([1, 0, 1], dtype=numpy.float32),
    "numbers of numpy": [numpy.int64(1), numpy.bool_(False), numpy.float16(1)],
    "objects": numpy.array([True, 0, 1.0], dtype=object),
    "tensor": torch.tensor([1.0, 0.0, 1.0], dtype=torch.bfloat16, requires_grad=True),
    "tensors": [torch.tensor(True), torch.tensor(0), torch.tensor(1.0, requires_grad=True)],
    "arrays": [numpy.array(1.0), numpy.array(0), numpy.array(True)],
    "exact": [Decimal(1), Fraction(0), True],
    "series": pandas.Series([1, 0, 1]),
}


@pytest.mark.parametrize("returned", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_are_numbers_whoever_made_them(returned) -> None:
    scores = ask(lambda prompts, responses: returned)
    assert scores == [1.0, 0.0, 1.0] and {type(score) for score in scores} == {float}


def test_generators_none_and_turns_are_scores_too() -> None:
    assert ask(lambda prompts, responses: (len(text) - 0.5 for text in responses)) == [0.5] * 3
    assert ask(lambda prompts, responses: [None, numpy.float32(0.5), 1]) == [None, 0.5, 1.0]
    turns = [[1, numpy.float32(0.5)], torch.tensor([1, 2]), numpy.array([0.5])]
    assert ask(lambda prompts, responses: turns) == [[1.0, 0.5], [1.0, 2.0], [0.5]]
    assert ask(lambda prompts, responses: numpy.ones((3, 1))) == [[1.0]] * 3


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned None; it must return one number, or None, for each response"),
        (1.0, r"returned 1.0 \(float\)"),
        (torch.tensor(1.0), r"returned tensor\(1\.\) \(Tensor\)"),
        ({"a": 1.0, "b": 0.0, "c": 1.0}, r"returned \{'a': 1.0.*\(dict\)"),
        ({1.0, 2.0, 3.0}, r"returned .*\(set\)"),
        ("101", "returned '101'"),
        ([1.0], "returned 1 scores for 3 responses"),
        ([1.0] * 4, "returned 4 scores for 3 responses"),
        (["1.0"] * 3, "reward 0 in iteration 4 is '1.0'; a reward must return one number, or None"),
        ([1.0, {"score": 1.0}, 1.0], r"reward 1 in iteration 4 is \{'score': 1.0\} \(dict\)"),
        ([1.0, 1j, 1.0], r"reward 1 in iteration 4 is 1j \(complex\)"),
        ([1.0, pandas.NA, 1.0], "reward 1 in iteration 4 is <NA>"),
        ([[1.0, None]] * 3, r"reward 0 in iteration 4 is \[1.0, None\]"),
        ([[[1.0]]] * 3, r"reward 0 in iteration 4 is \[\[1.0\]\]"),
        ([float("nan")] * 3, "reward 0 in iteration 4 is nan.*return None for a response"),
        ([0.0, numpy.inf, 0.0], "reward 1 in iteration 4 is inf"),
        ([[1e39, -1e39]] * 3, r"reward 0 in iteration 4 is \[1e\+39, -1e\+39\] \(list\), no finite float32"),
        ([1e300] * 3, r"reward 0 in iteration 4 is 1e\+300 \(float\), no finite float32"),
        ([10**400] * 3, r"reward 0 in iteration 4 is 1000+\.\.\. \(int\), no finite float32"),
    ],
)
def test_what_is_no_score_is_shown(returned, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(lambda prompts, responses: returned)


def test_a_coroutine_is_no_list_of_scores() -> None:
    with pytest.raises(UserError, match=r"returned <coroutine object later .*\(coroutine\)"):
        ask(lambda prompts, responses: later(prompts, responses))


def test_a_reward_that_empties_its_arguments_is_still_held_to_one_score_each() -> None:
    with pytest.raises(UserError, match="returned 0 scores for 3 responses"):
        ask(lambda prompts, responses: responses.clear() or [])


def test_a_reward_that_raises_is_named_with_row_iteration_and_cause() -> None:
    def picky(prompts, responses):
        return [{"a": 1.0, "c": 0.0}[text] for text in responses]

    with pytest.raises(UserError, match=r"reward .*picky failed in iteration 4 on row 1, 'p1' and 'b': KeyError: 'b'") as caught:
        ask(picky)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(UserError, match="on row 1, 'p1' and 'b'"):
        ask(lambda prompts, responses: (picky(prompts, [text])[0] for text in responses))  # raises while the scores are read

    def whole(prompts, responses):
        return [1.0] * len(responses) if len(responses) < 3 else [][0]

    with pytest.raises(UserError, match="whole failed in iteration 4 on a batch of 3 responses: IndexError"):
        ask(whole)

    def known(prompts, responses):
        raise UserError("no signal")

    with pytest.raises(UserError, match="^no signal$"):
        ask(known)


def test_a_reward_that_takes_too_long_is_named_with_the_parameter(tokenizer, problems) -> None:
    def slow(prompts, responses):
        time.sleep(2)

    def impatient(prompts, responses):
        raise TimeoutError("mine")

    with pytest.raises(UserError, match=r"slow took more than train.reward_timeout = 0.05 s over a batch"):
        ask(slow, timeout=0.05)
    with pytest.raises(UserError, match="impatient failed in iteration 4 on row 0.*TimeoutError: mine"):
        ask(impatient, timeout=5.0)
    assert ask(CALLABLES["house"], timeout=5.0) == [1.0, 0.0, 1.0]
    with pytest.raises(UserError, match="slow took more than"):
        trainer(tokenizer, problems, reward=slow, changes={"reward_timeout": 0.05}).run()


def test_a_time_limit_may_change_between_kill_and_resume(tokenizer, problems, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    trainer(tokenizer, problems, "grpo", checkpoint=path).run()
    again = trainer(tokenizer, problems, "grpo", checkpoint=path, changes={"reward_timeout": 100.0})
    assert again.run()[-1]["iteration"] == 3


def test_a_reward_of_nothing_but_none_ends_the_run(tokenizer, problems) -> None:
    with pytest.raises(UserError, match="None for all 24 responses of an iteration: not one could be scored"):
        trainer(tokenizer, problems, "ppo", reward=lambda prompts, responses: [None] * len(responses)).run()
    with pytest.raises(UserError, match="None for all 8 responses to the validation data"):
        trainer(tokenizer, problems, "ppo", clean_reward=lambda prompts, responses: [None] * len(responses)).run()
    rollout = Rollout(*(torch.ones(2, 3, dtype=kind) for kind in (torch.long, torch.bool, torch.long, torch.bool, torch.float)))
    assert new_experience(rollout, [None, 0.0]).scored.tolist() == [False, True]
