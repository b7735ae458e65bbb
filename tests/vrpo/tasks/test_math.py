"""Free-form mathematics: reading answers and checking them."""

import json
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.domains import load_task
from pipeline.params import Params
from vrpo.tasks.math import task as module
from vrpo.tasks.math.task import MathTask, canonical, last_boxed

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def task():
    task = MathTask()
    yield task
    task.close()


def golds(name: str, count: int = 60) -> list[str]:
    if not (DATA / name).is_file():
        pytest.skip(f"../shared/data/{name} is not there")
    answers = [json.loads(line)["answer"] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
    return random.Random(0).sample(answers, min(count, len(answers)))


def worker_pid(task: MathTask) -> int:
    assert task.verify([r"\boxed{\sqrt{8}}"], [r"2\sqrt2"]) == [1.0]  # formulas: the worker is asked
    return task._workers[0]._process.pid


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{3} no, \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}} done", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{1} and \boxed{2", None),
        (r"\boxed{5}. No, wait: \boxed{6", None),
        (r"\fbox{42}", "42"),
        (r"so \boxed 5.", "5"),
        (r"so $\boxed {5}$", "5"),
        (r"\boxed\frac{1}{2} is it", r"\frac{1}{2}"),
        (r"\boxed{5}, which I put in \boxed as asked", "5"),
        (r"$\boxed{3}$, $\boxed{5}$ and $\boxed{7}$", "3, 5, 7"),
        (r"x = \boxed{2} or x = \boxed{-2}", "2, -2"),
        (r"\(\boxed{2}\) and \(\boxed{-2}\)", "2, -2"),
        (r"**\boxed{2}** and **\boxed{-2}**", "2, -2"),
        (r"\boxed{2}, \; \boxed{-2}", "2, -2"),
        (r"\boxed{2} \quad \text{or} \quad x = \boxed{-2}", "2, -2"),
        (r"\boxed{5}, \boxed{5}", "5"),
        (r"\boxed{1}, then \boxed{5}", "5"),
        (r"\boxed{3}. \boxed{4}", "4"),
        (r"\boxed{3}\n\boxed{4}", "4"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{}", ""),
        ("the answer is 5", None),
        (r"\boxed{5", None),
        (r"\boxed{\{}", r"\{"),
    ],
)
def test_last_balanced_box(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("$1,234.0$", "1234"),
        (r"\$18.", "18"),
        ("007", "7"),
        ("-0", "0"),
        ("+3.50", "3.5"),
        (".5", "0.5"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\leftarrow", r"\leftarrow"),
        (r"\text{Evelyn}", "Evelyn"),
        ("p - q", "p-q"),
        (r"\sin x", r"\sin x"),
        (r"50\%", "50%"),
        ("1,2", "1,2"),
        ("", ""),
    ],
)
def test_canonical_spelling(answer, expected):
    assert canonical(answer) == expected
    assert canonical(expected) == expected


def test_extract_needs_a_filled_box(task):
    assert task.extract(r"The final answer is \boxed{ 1,000 }") == "1000"
    assert task.extract("The final answer is 1000") is None
    assert task.extract(r"\boxed{ }") is None
    assert task.extract(rf"\boxed{{{'9' * 5000}}}") is None


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "math500.jsonl"])
def test_real_golds_are_accepted_boxed_also_in_canonical_spelling(task, name):
    answers = golds(name)
    assert task.verify([task.canonical_response(answer) for answer in answers], answers) == [1.0] * len(answers)
    spelled = [task.extract(task.canonical_response(answer)) for answer in answers]
    assert task.verify([task.canonical_response(answer) for answer in spelled], answers) == [1.0] * len(answers)
    assert task.verify([task.canonical_response(answer) for answer in answers], spelled) == [1.0] * len(answers)


@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "math500.jsonl"])
def test_answers_of_other_problems_are_rejected(task, name):
    answers = sorted({canonical(answer) for answer in golds(name)})  # sorted: neighbours differ, and deterministic
    others = answers[1:] + answers[:1]
    scores = task.verify([task.canonical_response(other) for other in others], answers)
    assert scores.count(0.0) >= len(answers) - 1  # two spellings of one value may meet, nothing more
    assert None not in scores


def test_numbers_compared_here_agree_with_math_verify(task):
    spellings = ["7", "007", "-7", "+7", "1,234", "1234", "0", "-0", "12345678901234567890", "0.5", r"\frac12", r"\frac{1}{3}", "0.333333"]
    pairs = [(a, b) for a in spellings for b in spellings]
    quick = task.verify([task.canonical_response(a) for a, _ in pairs], [b for _, b in pairs])
    asked = [task._workers[0].ask({"gold": b, "answer": a, "same": False, "seconds": 9.0})[0] for a, b in pairs]
    assert asked == quick


def test_equal_values_in_other_forms(task):
    pairs = [
        (r"\frac{1}{2}", "0.5", 1.0),
        ("x=5", "5", 1.0),
        ("2x+1", "1+2x", 1.0),
        (r"\sqrt{8}", r"2\sqrt{2}", 1.0),
        ("0.51", r"\frac12", 0.0),
    ]
    assert task.verify([task.canonical_response(said) for said, _, _ in pairs], [gold for _, gold, _ in pairs]) == [
        score for *_, score in pairs
    ]
    assert task.verify([r"\boxed{72}"], [r"It is \boxed{72}"]) == [1.0]


def test_no_box_is_wrong_and_no_gold_is_unknown(task):
    before = task.unscored["gold"]
    assert task.verify(["72", r"\boxed{}", "0.5"], ["72", "72", r"\frac12"]) == [0.0, 0.0, 0.0]
    assert task.verify([r"\boxed{72}", r"\boxed{1}", r"\boxed{}"], ["", "}{", ""]) == [None, None, None]
    assert task.unscored["gold"] == before + 3


def test_an_answer_too_long_to_parse_is_wrong(task):
    assert task.verify([rf"\boxed{{{'x+' * 2000}x}}"], [r"\frac12"]) == [0.0]


def test_comparing_that_takes_too_long_is_unknown_and_counted(task, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.7)
    before = task.unscored["timeout"]
    slow_to_parse, slow_to_compare = r"\boxed{" + r"\left(" * 70 + "1" + r"\right)" * 70 + "}", r"\boxed{9^{9^{9^9}}}"
    assert task.verify([slow_to_parse, slow_to_compare, r"\boxed{\sqrt{8}}"], ["3.5x", "3.5", r"2\sqrt2"]) == [None, None, 1.0]
    assert task.unscored["timeout"] == before + 2


def test_a_reference_that_takes_too_long_is_no_unreadable_one(monkeypatch):
    """Whatever else the machine does, time on the clock that is none on the processor does not count."""
    monkeypatch.setattr(module, "SECONDS", 0.7)
    task = MathTask()
    slow = r"\left(" * 70 + "1" + r"\right)" * 70
    assert task.verify([r"\boxed{5}", r"\boxed{" + slow + "}"], [slow, slow]) == [None, None]
    assert task.unscored == {"timeout": 2}
    pid = worker_pid(task)
    with ThreadPoolExecutor(1) as pool:
        os.kill(pid, signal.SIGSTOP)  # the machine is busy with something else
        verdict = pool.submit(task.verify, [r"\boxed{\sqrt{2}}"], [r"2\sqrt2"])
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        assert verdict.result() == [0.0]
    assert task.unscored == {"timeout": 2}
    task.close()


def test_a_worker_that_the_kernel_ends_for_its_processor_time_is_a_timeout(task):
    """Python code is interrupted, one long multiplication cannot be."""
    before = task.unscored["timeout"]
    os.kill(worker_pid(task), signal.SIGXCPU)
    assert task.verify([r"\boxed{\sqrt{8}}"], [r"2\sqrt2"]) == [None]
    assert task.unscored["timeout"] == before + 1


def test_a_killed_worker_is_replaced(task):
    pid = worker_pid(task)
    os.kill(pid, signal.SIGKILL)
    assert task.verify([r"\boxed{\sqrt{8}}"], [r"2\sqrt2"]) == [1.0]
    assert worker_pid(task) != pid


def test_a_stalled_worker_is_killed_and_the_next_answer_is_its_own(task, monkeypatch):
    pid = worker_pid(task)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(module, "DEADLINE", 0.3)
    before = task.unscored["hang"]
    assert task.verify([r"\boxed{\sqrt{2}}"], [r"2\sqrt2"]) == [None]
    assert task.unscored["hang"] == before + 1
    monkeypatch.undo()
    assert task.verify([r"\boxed{\sqrt{8}}"], [r"2\sqrt2"]) == [1.0]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_keeps_dying_gives_unknown_and_counted(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    task = MathTask()
    assert task.verify([r"\boxed{\sqrt{8}}", r"\boxed{3}"], [r"2\sqrt2", "3"]) == [None, 1.0]
    assert task.unscored == {"crash": 1}


def test_an_interrupted_question_does_not_leave_its_reply_to_the_next(task, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    worker_pid(task)
    with monkeypatch.context() as patch:
        patch.setattr(module, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            task.verify([r"\boxed{\sqrt{8}}"], [r"2\sqrt2"])
    assert task.verify([r"\boxed{\sqrt{2}}"], [r"2\sqrt2"]) == [0.0]


def test_close_ends_the_worker():
    task = MathTask()
    pid = worker_pid(task)
    task.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_demonstration_ends_in_the_boxed_answer_once(task):
    assert task.demonstration({"solution": "2 + 3 = 5.", "answer": "5"}).endswith("2 + 3 = 5.\nThe final answer is \\boxed{5}")
    assert task.demonstration({"solution": r"It is \boxed{5}.", "answer": "5"}) == r"It is \boxed{5}."
    assert task.demonstration({"answer": "5"}) == task.canonical_response("5")
    assert task.extract(task.canonical_response("5")) == "5"


class ChatTokenizer:
    chat_template = "{{ messages }}"
    bos_token, bos_token_id = "<s>", 1

    def __call__(self, text):
        return {"input_ids": [1]}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "|".join(message["content"] for message in messages)


def test_prompt_uses_the_chat_template_or_plain_text_with_bos():
    chat = MathTask(ChatTokenizer()).prompt("How many {x}?")
    example, solution, problem = chat.split("|")
    assert last_boxed(solution) == "30"
    assert problem.startswith("How many {x}?\n")
    assert r"\boxed" in problem
    plain = ChatTokenizer()
    plain.chat_template = None
    for prompt, start in ((MathTask(plain).prompt("How many {x}?"), "<s>Problem: "), (MathTask().prompt("How many {x}?"), "Problem: ")):
        assert prompt.startswith(start + example)
        assert prompt.endswith(f"Problem: {problem}\nSolution:\n")


def test_load_task_follows_the_params():
    assert isinstance(load_task(Params(prepare={"dataset": "mine.jsonl"})), MathTask)
    assert load_task(Params(prepare={"max_length": 5})).max_length == 5
