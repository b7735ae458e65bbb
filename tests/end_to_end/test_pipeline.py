"""The real thing on the miniature profile: every stage, its outputs, what reruns when, and what a kill does."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHODS = ("grpo", "vrpo")  # one without a critic, one with every part of it
CELLS = {f"{stage}@{method}-0" for stage in ("train", "evaluate") for method in METHODS}


@pytest.fixture(scope="session")
def finished(project):
    project.dvc("repro", MLFLOW_TRACKING_URI="off")
    project.run(sys.executable, "-m", "pipeline.tracking", "sync")  # as `make repro` does: one process instead of one a stage
    return project


def test_summary_holds_the_contract(finished) -> None:
    summary = json.loads((finished.folder / "data/reports/summary.json").read_text())
    assert {"profile", "git", "machine", "runs", "comparisons"} <= set(summary)
    assert summary["profile"] == "mini"
    assert {(run["method"], run["seed"]) for run in summary["runs"]} == {(method, 0) for method in METHODS}
    for run in summary["runs"]:
        keys = {
            "method",
            "seed",
            "domain",
            "noise",
            "accuracy",
            "accuracy_init",
            "response_length",
            "length_inflation",
            "critic",
            "seconds",
        }
        assert keys <= set(run)
        low, high = run["accuracy"]["ci95"]
        assert 0 <= low <= run["accuracy"]["mean"] <= high <= 1
        assert run["accuracy"]["n"] == 32
        assert run["rollouts"] <= 192
        assert all(seconds >= 0 for seconds in run["seconds"].values())
        if run["method"] == "grpo":
            assert run["critic"] is None
        else:
            assert {"ev_observed", "ev_clean", "corr_mc", "corr_mc_start", "corr_mc_end"} <= set(run["critic"])
    pairs = {(c["a"], c["b"]) for c in summary["comparisons"]}
    assert pairs == {("vrpo", "grpo")}


def test_report_and_models_are_there_and_load(finished) -> None:
    from transformers import AutoModelForCausalLM

    from vrpo.critics.value_model import ValueModel

    data = finished.folder / "data"
    assert "vrpo" in (data / "reports/report.md").read_text().lower()
    assert "http://" not in (data / "reports/report.html").read_text().split("<body")[0]
    AutoModelForCausalLM.from_pretrained(data / "runs/vrpo-0/policy")
    assert ValueModel.from_pretrained(data / "runs/vrpo-0/value_model").settings == {"depth": 1, "latent_size": 8}
    assert not (data / "runs/grpo-0/value_model").exists()
    assert not [path for path in data.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_labels_are_noisy_as_declared_and_clean_ones_kept_beside(finished) -> None:
    rows = [json.loads(line) for line in (finished.folder / "data/labels/train.jsonl").read_text().splitlines()]
    noise = json.loads((finished.folder / "data/labels/noise.json").read_text())
    agree = sum(row["label"] == row["clean"] for row in rows) / len(rows)
    assert noise["label_accuracy"] == pytest.approx(agree)
    assert 0 < agree < 1


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("0[1-9]*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(finished, notebook, monkeypatch) -> None:
    """The tour and the value model on the miniature run, the study's on what is committed of the studies."""
    import nbformat
    from nbclient import NotebookClient

    shutil.copytree(ROOT / "data/reports/study", finished.folder / "data/reports/study", dirs_exist_ok=True)
    monkeypatch.setenv("PYTHONPATH", str(finished.folder))
    content = nbformat.read(notebook, as_version=4)
    NotebookClient(content, timeout=600, resources={"metadata": {"path": str(finished.folder)}}).execute()
    shown = {kind for cell in content.cells if cell.cell_type == "code" for output in cell.outputs for kind in output.get("data", {})}
    assert "image/png" in shown and "text/html" in shown


def test_tracking_mirrors_every_run(finished) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished.folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.info.run_name: run for run in client.search_runs(experiments)}
    assert len(runs) >= 7 + 2 * len(METHODS)
    log = [json.loads(line) for line in (finished.folder / "data/runs/vrpo-0/log.jsonl").read_text().splitlines()]
    (trained,) = [run for run in runs.values() if run.data.tags["dvc_stage"] == "train@vrpo-0"]
    assert trained.data.tags["domain"] == "math" and {dataset.dataset.name for dataset in trained.inputs.dataset_inputs} >= {
        "prepared/train.jsonl",
        "labels/train.jsonl",
    }
    points = client.get_metric_history(trained.info.run_id, "reward/observed")
    assert [point.value for point in sorted(points, key=lambda p: p.step)][: len(log)] == [row["reward/observed"] for row in log]


def test_nothing_reruns_when_nothing_changed(finished) -> None:
    assert finished.stale() == set()
    again = finished.run(sys.executable, "-m", "pipeline.repro", MLFLOW_TRACKING_URI="off")
    assert again.stdout.splitlines() == ["data/reports is up to date"]


def test_a_comment_among_the_parameters_reruns_nothing(finished) -> None:
    path = finished.folder / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("\ntrain:\n", "\ntrain:  # a comment\n"))
    try:
        assert path.read_text() != text and finished.stale() == set()
    finally:
        path.write_text(text)


def test_a_training_parameter_reruns_training_and_what_follows(finished) -> None:
    finished.change_params(train={"clip_range": 0.21})
    assert finished.stale() == CELLS
    finished.change_params(train={"clip_range": 0.2})
    assert finished.stale() == set()


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("vrpo/algorithms/grpo.py", CELLS),
        ("vrpo/rewards/corrections.py", {"label", "reward"} | CELLS),
        ("vrpo/config.py", set()),  # its values are compared, not its text
        ("pipeline/stages/report.py", {"report"}),
    ],
)
def test_an_edit_makes_its_users_stale_and_nobody_else(finished, module: str, stages: set[str]) -> None:
    path = finished.folder / module
    text = path.read_text()
    path.write_text(text + "\n# edited\n")
    try:
        assert finished.stale() == stages
    finally:
        path.write_text(text)


def test_a_killed_training_ends_with_the_same_numbers(finished) -> None:
    """Killed at an iteration here, at every point of one in tests/vrpo/test_resume.py."""
    iteration = 2
    run = finished.folder / "data/runs/vrpo-0"
    before = run.parent.parent / "before"
    shutil.rmtree(before, ignore_errors=True)
    shutil.move(run, before)
    record = finished.folder / "data/tracking/train-vrpo-0.jsonl"
    start = record.stat().st_size
    command = [sys.executable, "-m", "pipeline.stages.train", "--method", "vrpo", "--seed", "0"]
    process = subprocess.Popen(command, cwd=finished.folder, env=finished.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while record.read_text()[start:].count('"event": "metrics"') <= iteration and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not run.exists(), "the kill came after the end of training; nothing was tested"
    finished.run(*command)
    for name in ("log.jsonl", "run.json"):
        assert timeless((run / name).read_text()) == timeless((before / name).read_text())
    assert (run / "policy/model.safetensors").read_bytes() == (before / "policy/model.safetensors").read_bytes()


def timeless(text: str) -> list:
    """Parsed JSON or JSONL without what measures time or memory."""
    rows = [json.loads(text)] if text.startswith("{\n") else [json.loads(line) for line in text.splitlines()]
    drop = ("tokens_per_second", "seconds", "peak_memory_mb")
    return [{key: value for key, value in row.items() if key not in drop} for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"learning_rte": 0.1}}, "train.learning_rte: unknown key.*did you mean 'learning_rate'"),
        ({"train": {"learning_rate": -1}}, "train.learning_rate = -1"),
        ({"train": {"clip_range": "wide"}}, "train.clip_range = 'wide'"),
        ({"trian": {"a": 1}}, "trian: unknown key.*did you mean 'train'"),
        ({"profile": "huge"}, "profile: unknown profile 'huge'; use one of"),
        ({"prepare": {"dataset": "nowhere.jsonl"}}, "nowhere.jsonl"),
    ],
)
def test_bad_params_give_one_error_and_destroy_nothing(finished, change, message: str) -> None:
    params = finished.folder / "params.yaml"
    text = params.read_text()
    outputs = sorted(path for path in (finished.folder / "data").rglob("*") if path.is_file() and "tracking" not in path.parts)
    try:
        if "trian" in change:
            params.write_text(text + "\ntrian: {a: 1}\n")
        else:
            finished.change_params(**change)
        stage = "prepare" if "prepare" in change else "train"
        arguments = [] if stage == "prepare" else ["--method", "ppo", "--seed", "0"]
        failed = finished.run(sys.executable, "-m", f"pipeline.stages.{stage}", *arguments, check=False)
    finally:
        params.write_text(text)
    assert failed.returncode == 1
    assert re.search(message, failed.stderr), failed.stderr
    assert "Traceback" not in failed.stderr
    kept = sorted(path for path in (finished.folder / "data").rglob("*") if path.is_file() and "tracking" not in path.parts)
    assert kept == outputs


def test_numbers_are_finite(finished) -> None:
    for path in (finished.folder / "data/evaluations").glob("*.json"):
        assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", path.read_text())), path.name
    assert math.isfinite(json.loads((finished.folder / "data/evaluations/sft.json").read_text())["accuracy"]["mean"])
