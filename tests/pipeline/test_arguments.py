"""Mistakes on a command line: one line on stderr, an exit code, and nothing heavy is imported for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.stages import stage

PROJECT = Path(__file__).resolve().parents[2]
CELL = "--method vrpo --seed 0"
MISTAKES = {
    "pipeline.stages.train --method vpro --seed 0": "'vpro'; use one of asyppo, dr_grpo, grpo",
    "pipeline.stages.train --method vrpo --seed x": "--seed: 'x' is no whole number from 0 on",
    "pipeline.stages.train --method vrpo --seed -1": "--seed: '-1'",
    "pipeline.stages.evaluate --method vrpo --seed 0.5": "--seed: '0.5'",
    "pipeline.stages.critic --method VRPO --seed 0": "'VRPO'; use one of",
    f"pipeline.stages.train {CELL} --params nope.yaml": "'nope.yaml': not found",
    **{
        f"pipeline.stages.{name} --params nope.yaml": "'nope.yaml': not found"
        for name in ("prepare", "validate", "base", "label", "sft", "reward")
    },
    "pipeline.stages.report --params pipeline": "'pipeline': a folder",
    "pipeline.tools.check --params nope.yaml": "'nope.yaml': not found",
    "pipeline.tools.check --parms params.yaml": "unrecognized arguments: --parms",
    "pipeline.tools.benchmark org/model gsm9k": "'gsm9k'; use one of gsm8k",
    "pipeline.tools.benchmark org/model": "required: NAME",
    "pipeline.tools.benchmark org/model gsm8k --problems 0": "--problems: '0'",
    "pipeline.tools.benchmark org/model gsm8k --samples 0": "--samples: '0'",
    "pipeline.tools.benchmark org/model gsm8k --temperature nan": "--temperature: 'nan' is no number above 0",
    "pipeline.tools.benchmark org/model gsm8k --temperature 0": "--temperature: '0'",
    "pipeline.tools.benchmark org/model gsm8k --batch-size -8": "--batch-size: '-8'",
    "pipeline.tools.benchmark org/model gsm8k --max-new-tokens 0": "--max-new-tokens: '0'",
    "pipeline.tools.benchmark org/model gsm8k --files nowhere": "'nowhere': no such folder",
    "pipeline.tools.benchmark ../nowhere/policy gsm8k": "'../nowhere/policy': no such folder",
    "pipeline.tools.benchmark tests/nowhere gsm8k": "'tests/nowhere': no such folder",
    "pipeline.tools.benchmark pipeline gsm8k": "'pipeline': no model's folder",
    "pipeline.tools.benchmark package:no-such-model gsm8k": "'package:no-such-model': not installed",
    "pipeline.study nope.yaml": "'nope.yaml': not found",
    "pipeline.study pipeline/studies/noise.yaml --jobs 0": "--jobs: '0'",
    "pipeline.study pipeline/studies/noise.yaml --minutes -1": "--minutes: '-1'",
    "pipeline.study pipeline/studies/noise.yaml --minutes inf": "--minutes: 'inf'",
    "pipeline.study pipeline/studies/noise.yaml --table nope": "--table nope: not in pipeline/studies/noise.yaml; use gate",
    "pipeline.study pipeline/studies/noise.yaml --table gate --report": "--table: has no use with --report",
    "pipeline.flow --jobs 0": "--jobs: '0'",
    "pipeline.flow -S train_size": "-S: 'train_size' is no section.key=value",
    "pipeline.flow -S train.itertions=3": "-S: train.itertions: unknown key; remove it or fix its spelling (did you mean 'iterations'?)",
    "pipeline.flow -S train.iterations=none": "-S: train.iterations = 'none'",
    "pipeline.flow -S methods=[ppo": "-S methods=[ppo: '[ppo' is no value",
    "pipeline.orchestration.serve start --port 99999": "--port: '99999' is no whole number from 1 to 65535",
    "pipeline.orchestration.serve restart": "invalid choice: 'restart'",
    "pipeline.tools.replay nowhere.jsonl": "nowhere.jsonl: cannot be read",
    "pipeline.tools.replay params.yaml --out data": "'data': cannot be written",
    "pipeline.tracking push": "invalid choice: 'push'",
    "tests.benchmarks nope": "'nope'; use one of rollout",
    "tests.benchmarks gemm --json params.yaml/x.json": "'params.yaml/x.json': cannot be written",
}
RUN_EACH = """
import contextlib, io, json, runpy, sys
told = {}
for command in json.loads(sys.argv[1]):
    module, *sys.argv[1:] = command.split()
    sys.modules.pop(module, None)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
            code = 0
        except SystemExit as end:
            code = end.code
    told[command] = code, said.getvalue(), sorted({"torch", "pandas", "prefect", "mlflow"} & sys.modules.keys())
print(json.dumps(told))
"""


def test_mistakes_on_the_command_line_are_one_line_each_before_any_work() -> None:
    command = [sys.executable, "-c", RUN_EACH, json.dumps(list(MISTAKES))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(done.stdout)
    for mistake, message in MISTAKES.items():
        code, said, heavy = told[mistake]
        assert code in (1, 2), mistake
        assert said.startswith("error: ") and said.count("\n") == 1, (mistake, said)
        assert message in said, (mistake, said)
        assert not heavy, mistake


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        ("mine.jsonl", "mine.jsonl: not found in the experiment's copy of .*; `git add mine.jsonl` there"),
        ("data/own/mine.jsonl", "`git add data/own/mine.jsonl` there"),
        ("../shared.jsonl", "lies elsewhere; use the absolute path /.*/shared.jsonl$"),
        ("../nowhere.jsonl", "../nowhere.jsonl: not found; correct the path"),
        ("data/nowhere.jsonl", "data/nowhere.jsonl: not found; correct the path"),
        ("data/prepared/train.jsonl", "data/prepared/train.jsonl: not found; run `dvc repro`"),
    ],
)
def test_the_cure_fits_the_missing_path(tmp_path, monkeypatch, path: str, cure: str) -> None:
    checkout = tmp_path / "checkout"
    copy = checkout / ".dvc/tmp/exps/tmp1"
    copy.mkdir(parents=True)
    for there in (checkout / "mine.jsonl", checkout / "data/own/mine.jsonl", tmp_path / "shared.jsonl"):
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text("{}\n")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(checkout))
    with pytest.raises(stage.UserError, match=cure):
        files.read_jsonl(Path(path))


def test_a_path_that_may_not_be_read_is_no_reason_to_free_something(tmp_path, monkeypatch, capsys) -> None:
    def run(params, *, record) -> dict:
        raise PermissionError(13, "Permission denied", "mine.jsonl")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        stage.main("prepare", run, "A stage.")
    assert "correct the path or its permissions" in capsys.readouterr().err
