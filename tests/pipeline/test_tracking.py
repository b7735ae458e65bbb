"""Records survive everything; MLflow ends up holding each of their events once."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.params import Params
from pipeline.tracking import mirror, send
from pipeline.tracking import record as tracking
from pipeline.tracking.file import Record, flatten, read_events
from tests.pipeline.database import select
from vrpo.errors import UserError

TRAIN = {"stage": "train", "params": Params(), "arguments": ("ppo", 0)}
FILE = Path("data/tracking/train-ppo-0.jsonl")
NAME = "PPO seed 0, majority vote of 12"


def runs() -> list[tuple[str, str]]:
    return select("SELECT name, status FROM runs ORDER BY start_time")


def points(key: str) -> list[int]:
    """Steps of all points of a metric, over all runs."""
    return [step for (step,) in select(f"SELECT step FROM metrics WHERE key = '{key}' ORDER BY run_uuid, step")]


def test_flatten_keeps_every_value_json_can_hold() -> None:
    values = {"a": {"b": 1, "c": None}, "d": float("nan"), "e": [1, 2], "f": True, "g(h)": "text"}
    assert flatten(values) == {"a/b": 1, "d": "nan", "e": "[1, 2]", "f": True, "g_h_": "text"}


def test_record_file_tells_the_whole_run_as_it_happens(no_mirror: None) -> None:
    with tracking.record("train-ppo-0", **TRAIN) as record:
        record.metrics({"reward": {"observed": 0.5}}, step=3)
        start, metrics = read_events(FILE)  # written while the run is open
        assert (metrics["step"], metrics["values"]) == (3, {"reward/observed": 0.5})
    assert start["name"] == NAME
    assert start["params"]["train.critic.beta"] == 1e-3
    assert (start["params"]["method"], start["params"]["seed"]) == (
        "ppo",
        "0",
    )  # differ from cell to cell, so that pages that compare show them
    assert {key: start["tags"][key] for key in ("stage", "profile", "method", "seed", "domain", "noise")} == {
        "stage": "train", "profile": "tiny", "method": "ppo", "seed": "0", "domain": "math", "noise": "majority vote of 12"
    }  # fmt: skip
    assert read_events(FILE)[-1]["status"] == "FINISHED"


def test_a_closing_summary_does_not_bend_the_curves(no_mirror: None) -> None:
    with tracking.record("train-ppo-0", **TRAIN) as record:
        for step in range(2):
            record.metrics({"loss": 1.0 - step}, step)
        record.metrics({"loss": 0.0, "seconds": 3.0})
    assert [event["values"] for event in read_events(FILE) if event["event"] == "metrics"] == [
        {"loss": 1.0},
        {"loss": 0.0},
        {"seconds": 3.0},
    ]


def test_failed_stage_is_recorded_and_its_error_passes(no_mirror: None) -> None:
    with pytest.raises(ValueError, match="broken"), tracking.record("base", stage="base", params=Params()):
        raise ValueError("broken")
    end = read_events(Path("data/tracking/base.jsonl"))[-1]
    assert (end["status"], end["error"]) == ("FAILED", "ValueError: broken")


def killed_run(last: int) -> None:
    """A record that stops in the middle of a line after step `last`."""
    record = Record(FILE, {"name": NAME, "tags": {"stage": "train"}, "params": {}})
    for step in range(last + 1):
        record.metrics({"iteration": step, "loss": 1 / (step + 1)}, step)
    record._file.close()
    with FILE.open("a") as file:
        file.write('{"event": "metr')


def test_resumed_training_holds_every_row_once(no_mirror: None) -> None:
    killed_run(last=5)
    with tracking.record("train-ppo-0", **TRAIN) as record:
        record.resume([{"iteration": step, "loss": 1 / (step + 1)} for step in range(4)])  # the checkpoint is older than the kill
        for step in range(4, 8):
            record.metrics({"iteration": step, "loss": 1 / (step + 1)}, step)
    events = read_events(FILE)
    assert [event["step"] for event in events if event["event"] == "metrics"] == list(range(8))
    assert [event["event"] for event in events if event["event"] != "metrics"] == ["start", "resume", "end"]


def test_rows_of_another_training_begin_a_run_of_their_own(no_mirror: None) -> None:
    killed_run(last=5)
    with tracking.record("train-ppo-0", **TRAIN) as record:
        record.resume([{"iteration": step, "loss": 9.0} for step in range(3)])
    events = read_events(FILE)
    second = [event["event"] for event in events].index("start", 1)
    assert [event["step"] for event in events[second:] if event["event"] == "metrics"] == [0, 1, 2]


def test_outage_costs_one_line_and_loses_nothing(
    workspace: Path, database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "GRACE_SECONDS", 120.0)  # for a busy machine
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")  # nothing listens there
    with tracking.record("train-ppo-0", **TRAIN) as record:
        for step in range(600):
            record.metrics({"loss": step / 7}, step)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: MLflow (http://127.0.0.1:9) did not take all of train-ppo-0") and "secret" not in line

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for _ in range(3):
        assert send.sync() == 1
        assert runs() == [(NAME, "FINISHED")]
        assert points("loss") == list(range(600))
        FILE.with_suffix(".sync.json").unlink(missing_ok=True)  # a lost side file does not send anything twice
    assert send.sync() == 1
    shutil.copy(database, "mlflow.db")  # as if somebody had removed it
    subprocess.run([sys.executable, "-m", "pipeline.tracking", "sync"], check=True)
    assert points("loss") == list(range(600))


def test_hanging_server_is_given_up(workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(tracking, "GRACE_SECONDS", 120.0)  # for a busy machine; requests are given up after three seconds
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        with tracking.record("base", stage="base", params=Params()) as record:
            record.metrics({"loss": 1.0})
    (line,) = capfd.readouterr().err.splitlines()
    assert "did not take all of base: " in line and "no answer" not in line
    assert read_events(Path("data/tracking/base.jsonl"))[-1]["status"] == "FINISHED"


def test_a_mirror_that_is_slow_goes_on_alone_and_nobody_is_warned(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """A busy machine needs longer to import MLflow than a stage waits."""
    monkeypatch.setattr(tracking, "GRACE_SECONDS", 0.05)
    start = time.monotonic()
    with tracking.record("train-ppo-0", **TRAIN) as record:
        record.metrics({"loss": 1.0}, 0)
    assert time.monotonic() - start < 5 and capfd.readouterr().err == ""
    wait_for_runs([(NAME, "FINISHED")])
    assert points("loss") == [0]


CHILD = """
import sys, time
from pipeline.tracking import record as tracking
from pipeline.params import Params
with tracking.record(f"train-ppo-{sys.argv[1]}", stage="train", params=Params(), arguments=("ppo", int(sys.argv[1]))) as record:
    for step in range(50):
        record.metrics({"iteration": step, "loss": step / 7}, step)
    print("logged", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_stage(seed: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(seed), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_runs(wanted: list[tuple[str, str]]) -> None:
    deadline = time.monotonic() + 300  # a busy machine takes its time to import MLflow
    while runs() != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert runs() == wanted


def test_two_stages_at_once_on_a_cold_database(workspace: Path) -> None:
    Path("mlflow.db").unlink()
    stages = [start_stage(seed, 0) for seed in (0, 1)]
    for stage in stages:
        stage.communicate(timeout=60)
        assert stage.returncode == 0
    send.sync()  # on a very busy machine the children may have been given up
    assert sorted(runs()) == [(NAME, "FINISHED"), (NAME.replace("0", "1"), "FINISHED")]
    assert points("loss") == [*range(50), *range(50)]


def test_database_whose_creation_was_killed_is_made_anew(workspace: Path) -> None:
    Path("mlflow.db").unlink()
    code = """
import os, sqlalchemy
from pipeline.tracking import mirror
mirror.load_mlflow()
count = 0
def killed(connection, cursor, statement, *rest):
    global count
    count += statement.lstrip().startswith("CREATE TABLE")
    if count == 12:
        os._exit(9)
sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", killed)
mirror.init_database(mirror.tracking_uri())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    with tracking.record("train-ppo-0", **TRAIN):
        pass
    send.sync()
    assert runs() == [(NAME, "FINISHED")]


def test_killed_stage_is_marked_and_its_resumption_continues_the_run(workspace: Path) -> None:
    stage = start_stage(0, 600)
    assert stage.stdout.readline() == "logged\n"
    stage.kill()
    stage.communicate()
    wait_for_runs([(NAME, "KILLED")])  # the mirror, alone, did that
    record = Record(FILE, {})
    record.resume([{"iteration": step, "loss": step / 7} for step in range(40)])
    record.metrics({"loss": 8.0}, 50)  # 40 to 49 were logged before the kill
    record.end("FINISHED")
    send.sync()
    assert runs()[0][1] == "FINISHED"
    assert set(points("loss")) == set(range(51))


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_a_run_is_closed_after_all_that_it_holds(workspace: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    killed_run(last=5)
    if status == "FAILED":
        with FILE.open("a") as file:
            file.write('\n{"event": "end", "time": 1, "status": "FAILED", "error": "ValueError: broken"}\n')
    client, seen = mirror.connect(), []
    terminate, errors = client.set_terminated, "SELECT value FROM tags WHERE key = 'error'"
    monkeypatch.setattr(client, "set_terminated", lambda *rest: (seen.append((points("loss"), select(errors))), terminate(*rest)))
    mirror.mirror(FILE, client, closing=True)
    assert seen == [(list(range(6)), [("ValueError: broken",)] if status == "FAILED" else [])]
    assert runs() == [(NAME, status)]


def test_aborted_experiment_is_marked_though_its_folder_is_gone(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = workspace / ".dvc/tmp/exps/tmp1"
    temporary.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.chdir(temporary)
    stage = start_stage(0, 600)
    assert stage.stdout.readline() == "logged\n"
    stage.kill()
    shutil.rmtree(temporary)  # before the mirror has imported MLflow
    stage.communicate()
    monkeypatch.chdir(workspace)
    wait_for_runs([(NAME, "KILLED")])
    assert points("loss") == [*range(50)]


def test_init_of_a_current_database_does_not_even_import_mlflow(workspace: Path) -> None:
    code = (
        "import sys; from pipeline.tracking import mirror; mirror.init_database(mirror.tracking_uri()); assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_sets_and_system_metrics_reach_mlflow(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SYSTEM_SECONDS", 0.01)
    monkeypatch.setattr(tracking, "_start_follower", lambda path: None)
    Path("rows.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    with tracking.record("train-ppo-0", **TRAIN) as record:
        record.metrics({"loss": 1.0}, 0)
        deadline = time.monotonic() + 30
        while not any(event["event"] == "system" for event in read_events(FILE)) and time.monotonic() < deadline:
            time.sleep(0.01)
        record.dataset("rows.jsonl", "training")
    for _ in range(2):
        send.sync()
        FILE.with_suffix(".sync.json").unlink()
    assert select("SELECT name, dataset_profile FROM datasets") == [("rows.jsonl", '{"num_rows": 2}')]
    assert select("SELECT value FROM input_tags") == [("training",)]
    assert points("system/process_memory_megabytes")[0] == 0
    assert points("loss") == [0]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_run_s_first_metric_is_one_that_says_how_good_it_is(workspace: Path, passes: int) -> None:
    """MLflow's page that compares runs opens on it; those of the system come every ten seconds, a value warm-up takes longer."""
    record = Record(FILE, {"name": NAME, "tags": {"stage": "train"}, "params": {}})
    record.system({"system/cpu": 1.0}, 0)
    if passes == 2:  # the mirror looks in before anything is measured
        mirror.mirror(FILE, mirror.connect(), closing=False)
        assert points("system/cpu") == []
    record.metrics({"iteration": 0, "rollouts": 64, "validation/accuracy": 0.5}, 0)
    record.system({"system/cpu": 2.0}, 1)
    record.metrics({"iteration": 1, "rollouts": 96}, 1)
    record.end("FINISHED")
    mirror.mirror(FILE, mirror.connect(), closing=True)
    assert [key for (key,) in select("SELECT key FROM latest_metrics ORDER BY rowid")] == [
        "validation/accuracy", "iteration", "rollouts", "system/cpu"
    ]  # fmt: skip
    assert points("system/cpu") == [0, 1]


def test_system_metrics_of_a_run_that_measures_nothing_arrive_at_its_end(workspace: Path) -> None:
    record = Record(FILE, {"name": NAME, "tags": {"stage": "train"}, "params": {}})
    record.system({"system/cpu": 1.0}, 0)
    record.end("FINISHED")
    mirror.mirror(FILE, mirror.connect(), closing=True)
    assert points("system/cpu") == [0]


def test_system_metrics_do_not_disturb_a_resumption(no_mirror: None) -> None:
    killed_run(last=5)
    record = Record(FILE, {"name": NAME, "tags": {"stage": "train"}, "params": {}})
    record.system({"system/cpu": 1.0}, 0)  # before anybody knows whether the run goes on
    record.resume([{"iteration": step, "loss": 1 / (step + 1)} for step in range(4)])
    record.system({"system/cpu": 1.0}, 0)
    record.end("FINISHED")
    assert [event["event"] for event in read_events(FILE) if event["event"] != "metrics"] == ["start", "resume", "system", "end"]


def test_an_experiment_s_record_outlives_its_folder(workspace: Path, no_mirror: None, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = workspace / ".dvc/tmp/exps/tmp1"
    temporary.mkdir(parents=True)
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(workspace))
    monkeypatch.setenv("DVC_EXP_NAME", "other-rate")
    with tracking.record("train-ppo-0", **TRAIN) as record:
        record.metrics({"loss": 1.0}, 0)
    monkeypatch.chdir(workspace)
    shutil.rmtree(temporary)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.delenv("DVC_EXP_NAME")
    assert send.sync() == 1
    assert select("SELECT value FROM tags WHERE key = 'pipeline_run'") == [("other-rate",)]
    assert select("SELECT name FROM runs")[0][0].endswith(", other-rate")  # not the name of the same cell in the checkout


def test_noise_in_words() -> None:
    flips = [{"kind": "flip", "false_positive": 0.2}, {"kind": "heavy_tail", "scale": 0.5}]
    said = "flips 0 to 1 (20 %) and 1 to 0 (0 %), heavy tails of 0.5 in units of reward (Student's t, 2 degrees of freedom)"
    assert tracking.describe_noise(Params(label={"source": "clean"}, noise=flips)) == f"clean labels, {said}"
    assert tracking.describe_noise(Params(label={"wrong_reference_rate": 0.3})) == "majority vote of 12, 30 % wrong references"
    assert tracking.describe_noise(Params(reward={"kind": "model"})) == "reward model, 20 % wrong pairs"
    both = Params(reward={"kind": "implicit"}, noise=flips, label={"wrong_reference_rate": 0.3})  # labels that nobody reads
    assert tracking.describe_noise(both) == f"implicit reward, 20 % wrong pairs, {said}"


def test_sync_names_the_record_and_the_store_that_does_not_answer(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_run(last=0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"^data/tracking/train-ppo-0.jsonl: MLflow \(http://127.0.0.1:9\) did not take the record.*sync again$"
    ):
        send.sync()


def test_a_copied_checkout_keeps_its_artifacts_to_itself(workspace: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(folder: Path, name: str) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it
        Path("page.html").write_text(name)
        record = Record(Path(f"data/tracking/{name}.jsonl"), {"name": name, "tags": {"stage": "report"}, "params": {}})
        record.artifact("page.html")
        record.end("FINISHED")
        mirror.mirror(Path(f"data/tracking/{name}.jsonl"), mirror.connect(), closing=True)

    first, second = workspace / "first", workspace / "second"
    first.mkdir()
    shutil.copy(database, first / "mlflow.db")
    send(first, "one")
    shutil.copytree(first, second)
    shutil.rmtree(first / "mlartifacts")  # what the copy reads and writes there would come back
    send(second, "two")
    assert not (first / "mlartifacts").exists()
    artifacts = [Path(uri) / "page.html" for (uri,) in select("SELECT artifact_uri FROM runs ORDER BY start_time")]
    assert [path.read_text() for path in artifacts] == ["one", "two"] and all(path.is_relative_to(second) for path in artifacts)
