"""What stages write can be read, whatever the text, the terminal and the disk; what they read is what it claims to be."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import files
from pipeline.params import Params
from pipeline.reporting.runs import load_runs
from pipeline.tracking import __main__ as tracking_main
from pipeline.tracking.file import Record, read_events
from pipeline.workspace import HERE
from vrpo.config import MEMORY_SETTINGS
from vrpo.errors import UserError

ROOT = Path(__file__).parents[2]
LONE = "half a pair: \ud800, caf\u00e9"


def test_lone_surrogates_are_written_and_read_back(tmp_path) -> None:
    files.write_jsonl(tmp_path / "rows.jsonl", [{"text": LONE}])
    assert files.read_jsonl(tmp_path / "rows.jsonl") == [{"text": LONE}]
    files.write_json(tmp_path / "value.json", {LONE: [LONE]})
    assert files.read_json(tmp_path / "value.json") == {LONE: [LONE]}
    files.write_atomically(tmp_path / "page.md", LONE)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == "half a pair: \\ud800, caf\u00e9"
    record = Record(tmp_path / "record.jsonl", {"name": LONE, "tags": {}, "params": {}})
    record.metrics({"answer": LONE})
    record.end("FAILED", LONE)
    assert [event.get("error") or event.get("name") or event["values"]["answer"] for event in read_events(tmp_path / "record.jsonl")] == [
        LONE
    ] * 3


def test_an_ascii_terminal_costs_no_traceback_after_the_data_are_written(tmp_path) -> None:
    rows = [{"question": f"1+{number}", "answer": str(1 + number)} for number in range(9)]
    (tmp_path / "donn\u00e9es.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "params.yaml").write_text(
        "prepare: {dataset: donn\u00e9es.jsonl, train_size: 4, validation_size: 2, test_size: 2}\nsft: {demonstrations: 4}\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "MLFLOW_TRACKING_URI": "off"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.stages.prepare"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "donn\\xe9es.jsonl" in done.stdout and (tmp_path / "data/metrics/prepare.json").is_file()


def test_a_full_disk_leaves_whole_lines(tmp_path) -> None:
    path = tmp_path / "lines.jsonl"
    files.append_line(path, '{"first": 1}')
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # as Python sets it
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            files.append_line(path, '{"second": "longer than the room that is left"}')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


@pytest.mark.parametrize("garbage", [b"garbage", b"\xfe\x00\x80", b"", b"3"])
def test_a_garbage_file_of_a_run_is_named_with_the_cure(tmp_path, monkeypatch, garbage: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data/evaluations/ppo-0.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(garbage)
    with pytest.raises(UserError, match=r"ppo-0\.json: .*; remove the file and run `dvc repro`"):
        load_runs(Params(methods=["ppo"], seeds=[0]), HERE)
    with pytest.raises(UserError, match="expected a JSON list, found dict"):
        path.write_text("{}")
        files.read_json(path, list)


def test_a_training_finds_its_state_after_a_change_of_memory_and_of_nothing_else() -> None:
    from pipeline.stages.train import _key

    plain = Params()
    changes = {"runtime": {"device": "cuda", "threads": 4}, "generation": {"batch_size": 3}}
    changes["train"] = {"micro_batch_size": 1, "gradient_checkpointing": True, "checkpoint_every": 5, "reward_timeout": 60.0}
    changes["train"] |= {"sharding": "full", "offload": True}
    assert {section: set(values) for section, values in changes.items()} == MEMORY_SETTINGS
    assert _key(Params(**changes)) == _key(plain) != _key(Params(runtime={"dtype": "bfloat16"}))
    assert _key(Params(train={"learning_rate": 1e-3})) != _key(plain) != _key(Params(generation={"temperature": 0.5}))


def test_a_database_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    monkeypatch.setattr(sys, "argv", ["tracking", "init"])
    with pytest.raises(SystemExit) as end:
        tracking_main.main()
    assert end.value.code == 1 and capsys.readouterr().err.startswith("error: MLflow (sqlite:///")
