"""`vrpo train`: from a model, data and a reward to a trained model, also through a kill; what users have as data; sizes that fit."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from vrpo.console.data import read_rows, split_off, with_prompts
from vrpo.console.main import main
from vrpo.console.sizing import defaults, held_out
from vrpo.errors import UserError

REWARD = """
import os, signal


def digits(prompts, completions, answer, step, **columns):
    if step == 2 and os.environ.get("KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(sum(c.isdigit() for c in text) >= 0.5 * max(len(text), 1)) for text in completions]


def short(completions, **columns):
    return [-float(len(text)) for text in completions]
"""
ROWS = [{"prompt": f"{a}+{b}.:", "answer": str((a + b) % 10)} for a in range(6) for b in range(4)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    from tests.vrpo.tiny import tiny_policy
    from vrpo.models.loading import save_model
    from vrpo.tasks.math.chain import new_tokenizer

    tokenizer = new_tokenizer()
    save_model(tiny_policy(tokenizer), tokenizer, tmp_path / "model")
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = ["train", "--model", "model", "--data", "data.jsonl", "--reward", "reward.py:digits"]
SMALL = ["--steps", "3", "--max-new-tokens", "6", "--learning-rate", "0.01", "--cpu", "--set", "gradient_accumulation_steps=1"]


def test_a_killed_run_goes_on_by_the_same_command_to_the_same_result(folder, capsys) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "KILL": "1"}
    command = [sys.executable, "-m", "vrpo.console.main", *COMMAND, *SMALL, "--output", "killed"]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL and "step 1/3" in killed.stdout, killed.stderr
    main([*COMMAND, *SMALL, "--output", "killed"])
    said = capsys.readouterr().out
    assert "goes on after step 1 of 3" in said and "step 1/3" not in said and "step 2/3" in said
    main([*COMMAND, *SMALL, "--output", "whole"])
    said = capsys.readouterr().out
    for part in (
        "22 prompts, 2 held out",
        "3 steps",
        "saved in whole",
        "next: vrpo score --model whole --data data.jsonl",
        "reward ",
        "held out ",
    ):
        assert part in said, part
    one, other = (load_file(folder / name / "model.safetensors") for name in ("killed", "whole"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (folder / "whole/value_model").is_dir() and (folder / "whole/README.md").is_file()


def test_options_arrive(folder, capsys) -> None:
    pandas.DataFrame(ROWS).to_csv("data.csv", index=False)
    options = ["--method", "grpo", "--noise", "{kind: heavy_tail, scale: 0.1}", "--lora", "2", "--seed", "5", "--push-to", "./published"]
    options += [
        "--reward",
        "reward.py:short",
        "--reward-weights",
        "1",
        "0.1",
        "--set",
        "epsilon=1e-1",
        "--output",
        "run",
        "--eval-data",
        "data.csv",
    ]
    main([*COMMAND, *SMALL, *options])
    assert "24 prompts, 24 held out" in (said := capsys.readouterr().out) and "saved in run, and at published" in said
    card = (folder / "published/README.md").read_text()
    for part in (
        "grpo, 3 optimiser steps",
        "seed 5",
        "heavy tails of 0.1",
        "`short`, weight 0.1",
        "`epsilon` | 0.1",
        "'rank': 2, 'alpha': 4.0",
    ):
        assert part in card, part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "weight_decay=0.1"], "weight_decay = 0.1 .*weights do not decay; leave it out"),
        (["--set", "nothing"], "'nothing': write NAME=VALUE"),
        (["--noise", "flip"], "'flip': write {kind: NAME"),
        (["--method", "gpro"], "there is no 'gpro'"),
        (["--reward", "reward.py:digit"], "reward.py defines no digit at its top .did you mean digits"),
        (["--prompt-column", "question"], "data.jsonl, row 0: no 'question' among prompt, answer; name the column with --prompt-column"),
        (["--eval-data", "nowhere.csv"], "nowhere.csv: not found"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*COMMAND, "--output", "run", *options])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert re.search(message, said), said


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_come_from_what_users_have(tmp_path, kind: str) -> None:
    frame, file = pandas.DataFrame(ROWS), tmp_path / f"rows.{kind}"
    {"jsonl": lambda: frame.to_json(file, orient="records", lines=True), "csv": lambda: frame.to_csv(file, index=False)}.get(
        kind, lambda: frame.to_parquet(file)
    )()
    assert read_rows(str(file), "train") == ROWS
    file.write_text("")
    with pytest.raises(UserError, match=f"rows.{kind}"):
        read_rows(str(file), "train")


def test_prompts_are_renamed_made_messages_and_split_by_seed() -> None:
    rows = [{"question": f"{n}", "answer": n} for n in range(30)]
    asked = with_prompts(rows, "question", True, "rows")
    assert asked[3] == {"answer": 3, "prompt": [{"role": "user", "content": "3"}]}
    kept, held = split_off(asked, 3, 0)
    assert len(kept) == 27 and len(held) == 3 and sorted(row["answer"] for row in kept + held) == list(range(30))
    assert split_off(asked, 3, 0) == (kept, held) != split_off(asked, 3, 1)
    assert (held_out(9), held_out(24), held_out(10_000)) == (0, 2, 64)


@pytest.mark.parametrize("parameters", [5e3, 1e7, 1e8, 7e9])
def test_sizes_fit_the_model_and_give_way_to_what_is_asked_for(parameters: float) -> None:
    from vrpo import VRPOConfig
    from vrpo.adapters.plan import plan

    found = defaults(int(parameters), 128, 100, 24, {})
    planned = plan(VRPOConfig(**found), 24)
    assert planned.train.rollouts == planned.train.iterations * 64 and 20 <= planned.train.iterations <= 200
    assert planned.generation.max_new_tokens == 28 and defaults(int(parameters), None, 100, 24, {})["max_completion_length"] == 256
    rates = [defaults(int(size), None, 1, 24, {})["learning_rate"] for size in (parameters, 10 * parameters)]
    assert rates[0] >= rates[1]
    asked = defaults(int(parameters), None, 1, 24, {"max_steps": 3, "learning_rate": 1.0, "num_generations": 4})
    assert (asked["max_steps"], asked["learning_rate"], asked["num_generations"]) == (3, 1.0, 4)
