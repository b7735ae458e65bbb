"""`vrpo score`: responses of a model, scored by a function of one's own."""

import json
import re
from pathlib import Path

import pytest

from vrpo.console.score import in_words

SCORE = "score --model policy --data prompts.jsonl --max-new-tokens 6 --samples 3"


def test_each_response_and_its_score_are_written_and_their_mean_is_printed(vrpo):
    code, out, _ = vrpo(f"{SCORE} --reward rewards.py:long --output made/scored.jsonl")
    rows = [json.loads(line) for line in Path("made/scored.jsonl").read_text().splitlines()]
    assert code == 0 and [(row["answer"], row["sample"]) for row in rows] == [(str(2 * a), k) for a in range(6) for k in range(3)]
    assert all(row["score"] == (None if row["response"].startswith("a") else len(row["response"])) for row in rows)
    groups = [[row["score"] for row in rows[i : i + 3] if row["score"] is not None] for i in range(0, 18, 3)]
    mean = sum(sum(group) / len(group) for group in groups) / 6
    assert re.fullmatch(rf"mean {mean:.4g} \[[\d.]+, [\d.]+\] over 6 prompts x 3; [\d.]+% unscored; [\d.]+ tokens a response; \d+ s\n", out)


def test_responses_depend_on_the_seed_and_not_on_the_batch_size(vrpo):
    found = {}
    for name, options in {"one": "", "again": "--batch-size 4", "other": "--seed 1"}.items():
        assert vrpo(f"{SCORE} --reward rewards.py:short --output {name}.jsonl {options}")[0] == 0
        found[name] = Path(f"{name}.jsonl").read_text()
    assert found["one"] == found["again"] != found["other"]


def test_the_interval_is_that_of_the_kind_of_scores():
    assert in_words([1.0, 0.0, 1.0, 1.0], 2) == "mean 0.75 [0, 1] over 2 prompts x 2; 0.0% unscored"
    assert in_words([1.0] * 20, 2) == "mean 1 [0.6915, 1] over 10 prompts x 2; 0.0% unscored"  # ten right ones prove little
    assert in_words([2.0, 4.0, None, 5.0, None, None], 2) == "mean 4 [-8.706, 16.71] over 2 prompts x 2; 50.0% unscored"
    assert in_words([7.0], 1) == "mean 7, no interval of one prompt, over 1 prompts x 1; 0.0% unscored"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--reward rewards.py:lng", "--reward = 'rewards.py:lng': rewards.py defines no lng at its top (did you mean long?)"),
        ("--reward rewards.py", "--reward = 'rewards.py': write FILE.py:NAME"),
        ("--reward rewards.py:wants", "--reward = 'rewards.py:wants': the reward wants wants colour, which is no column of the data"),
        ("--reward rewards.py:none --output told.jsonl", "the reward is None for all 18 responses: not one could be scored"),
        ("--reward rewards.py:long --data nowhere.jsonl", "argument --data: 'nowhere.jsonl': not found"),
        ("--reward rewards.py:long --data rewards.py", "rewards.py:2: not valid JSON"),
        ("--reward rewards.py:long --model nowhere/policy/here", "argument --model: 'nowhere/policy/here': no such folder, and no hub id"),
        ("--reward rewards.py:long --device cuda:99", "argument --device: 'cuda:99': 0 CUDA devices here"),
        ("--reward rewards.py:long --device tpu", "argument --device: 'tpu': no device; use cpu, cuda or cuda:N"),
        ("--reward rewards.py:long --dtype float64", "argument --dtype: there is no 'float64'; use one of float32, bfloat16, float16"),
        ("--reward rewards.py:long --output policy", "argument --output: 'policy': cannot be written"),
    ],
)
def test_a_mistake_is_one_line(vrpo, options, said):
    code, out, err = vrpo(f"{SCORE} {options}")
    *_, error = err.split("\r")[-1].splitlines()  # after the bars of a library that this process had imported before
    assert (code, out) == (2, "") and error.startswith(f"error: {said}")


def test_responses_that_nobody_can_score_can_be_looked_at(vrpo):
    vrpo(f"{SCORE} --reward rewards.py:none --output told.jsonl")
    assert len(Path("told.jsonl").read_text().splitlines()) == 18
