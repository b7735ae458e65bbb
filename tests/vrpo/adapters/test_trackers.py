"""Trackers hold a run's curve, read back from their own files: W&B offline, TensorBoard, MLflow."""

import json
import os
import struct
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from small import Heard, new_trainer

from vrpo.errors import UserError

NAMES = ("reward", "loss", "completions/mean_length")
TOKEN = "hf_not_to_be_seen"
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    return tmp_path


def records(data: bytes) -> Iterator[bytes]:
    """What a .wandb file holds: 7 bytes of its own, then LevelDB's log, blocks of 32 KiB with records that may run over several."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


def curve_of_wandb(folder) -> Curves:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.rglob("*.wandb")
    found: Curves = {name: [] for name in NAMES}
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name in NAMES:
            if f"train/{name}" in row:
                found[name].append((row["train/global_step"], row[f"train/{name}"]))
    return found


def curve_of_tensorboard(folder) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(f"train/{name}")] for name in NAMES}


def curve_of_mlflow(folder) -> Curves:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs(["0"])
    assert run.data.params["method"] == "vrpo" and run.data.params["hub_token"] == "None" and run.info.status == "FINISHED"
    return {name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)) for name in NAMES}


CURVES = {"wandb": curve_of_wandb, "tensorboard": curve_of_tensorboard, "mlflow": curve_of_mlflow}


@pytest.mark.parametrize("name", list(CURVES))
def test_a_tracker_holds_the_curve_that_callbacks_heard(tokenizer, environment, name: str) -> None:
    """One run that reports to all that are installed."""
    pytest.importorskip(name)
    heard, installed = Heard(), [each for each in CURVES if find_spec(each)]
    new_trainer(tokenizer, environment / "run", callbacks=[heard], report_to=installed, run_name="one", hub_token=TOKEN).train()
    if "wandb" in installed:
        import wandb

        wandb.finish()
    found = CURVES[name](environment)
    for key in NAMES:
        curve = [(entry["step"], entry[key]) for entry in heard.logs if key in entry]
        assert len(curve) >= 4 and [step for step, _ in found[key]] == [step for step, _ in curve]
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in curve], rel=1e-6, abs=1e-9)
    files = [file for file in environment.rglob("*") if file.is_file() and not os.path.islink(file)]
    assert not [file for file in files if TOKEN.encode() in file.read_bytes()]


def test_a_tracker_that_is_missing_or_unknown_is_named(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_trackio_available", lambda: False)
    with pytest.raises(UserError, match="report_to = 'trackio': not installed .*pip install trackio"):
        new_trainer(tokenizer, tmp_path, report_to=["trackio"])
    with pytest.raises(UserError, match="report_to = 'comet_ml': use wandb, tensorboard, mlflow, trackio or 'none'"):
        new_trainer(tokenizer, tmp_path, report_to="comet_ml")
