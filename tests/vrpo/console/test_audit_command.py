"""`vrpo audit`: a reward of one's own on a file of responses."""

import json
from pathlib import Path

import pytest

REWARD = """
def answered(prompts, responses, *, answer, **_):
    return [float(response == right) for response, right in zip(responses, answer, strict=True)]


def constant(completions, **_):
    return [1.0] * len(completions)
"""
AUDIT = "audit --responses said.jsonl --reward judge.py:answered"


@pytest.fixture(autouse=True)
def responses(vrpo) -> None:
    """Forty responses, every second one checked; the reward's references are wrong for every tenth."""
    rows = []
    for place in range(40):
        right = place % 3 > 0
        answer = "no" if place % 10 == 0 else "yes"
        rows.append({"prompt": f"question {place // 2}", "response": "yes" if right else "no", "answer": answer, "fine": right})
        if place % 2:
            rows[-1].pop("fine")
    Path("said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("judge.py").write_text(REWARD)


def test_figures_and_advice_are_printed_and_drawn(vrpo):
    code, out, _ = vrpo(f"{AUDIT} --checked fine --repeats 3 --plot made/audit.png")
    assert code == 0 and out.startswith("40 responses to 20 prompts, scored 3 times; 20 checked, 13 of them right\n")
    assert "J, what is left of right - wrong        0.56 [" in out and "\n- " in out
    assert Path("made/audit.png").read_bytes().startswith(b"\x89PNG")


def test_without_checks_it_says_what_is_missing(vrpo):
    code, out, _ = vrpo(AUDIT)
    assert code == 0 and "Nobody checked these responses" in out and "J, what is left" not in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (f"{AUDIT} --checked right", "--checked = 'right': no such column in said.jsonl; there are prompt, response, answer, fine"),
        (f"{AUDIT} --checked answer", "--checked = 'answer': 'no' in said.jsonl is not true, false or null"),
        (AUDIT.replace("answered", "constant"), "--reward = 'judge.py:constant': the reward is 1 for every response"),
        (AUDIT.replace("said", "prompts"), "prompts.jsonl:1: needs `prompt` and a text `response`; it has prompt, answer"),
        (f"{AUDIT} --repeats 0", "argument --repeats: '0' is no whole number from 1 on"),
        (AUDIT.replace("said", "ours"), "ours.jsonl:1: a column cannot be called 'seed'"),
    ],
)
def test_a_mistake_is_one_line(vrpo, options, said):
    Path("ours.jsonl").write_text('{"prompt": "a", "response": "b", "seed": 1}\n')
    code, out, err = vrpo(options)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith(f"error: {said}")
