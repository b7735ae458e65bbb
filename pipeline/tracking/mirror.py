"""MLflow as a mirror of the record files. With `champion.py` the only file that imports mlflow, and only inside functions: it takes 1.6 s.

The store is MLFLOW_TRACKING_URI; by default sqlite:///mlflow.db in the project's folder, with artifacts in mlartifacts/.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sqlite3
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.environment import TELEMETRY_OFF
from pipeline.files import write_json
from pipeline.tracking.file import digest, parse

if TYPE_CHECKING:
    from mlflow import MlflowClient

RECORD_TAG = "vrpo.record"  # on the MLflow run: id of the record, so that a lost side file cannot cause duplicates
STORED_PATHS = (  # tables and columns in which MLflow's database keeps places of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
HEADLINE = ("validation/accuracy", "accuracy")  # metrics that come before all others of a run
BATCH = 1000  # metrics per request; MLflow allows no more


def tracking_uri() -> str:
    """The store to mirror to. DVC_ROOT is set by DVC: temporary experiment folders share the project's store."""
    root = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def load_mlflow() -> Any:
    """Import mlflow, quiet and without telemetry; a hanging server is given up after seconds, not MLflow's many minutes."""
    defaults = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every run that `sync` closes
    }
    for key, value in {**TELEMETRY_OFF, **defaults}.items():
        os.environ.setdefault(key, value)
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow


def connect() -> MlflowClient:
    """A client for the store, whose database is made first if need be."""
    mlflow, uri = load_mlflow(), tracking_uri()
    init_database(uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def init_database(uri: str) -> None:
    """Create or upgrade the SQLite database of `uri`; any other store looks after itself.

    The database remembers the MLflow it was prepared for (`user_version`), which spares the import when it is current. The
    lock keeps processes that start together from migrating it together. A new database gets its name when it is complete:
    MLflow can never finish one whose creation was killed half-way. One that was moved or copied with its checkout is told so.
    """
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = sum(int(part) * 1000 ** (2 - place) for place, part in enumerate(re.findall(r"\d+", version("mlflow"))[:3]))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if path.exists() and _user_version(path) == wanted:
            _move_in(path)
            return
        load_mlflow()
        from mlflow.db import upgrade

        target = path if path.exists() else path.with_name(f"{path.name}.new")
        if target != path:
            target.unlink(missing_ok=True)  # left by a killed process
        upgrade.callback(f"sqlite:///{target}")  # the function behind the `mlflow db upgrade` command
        with closing(sqlite3.connect(target, timeout=20)) as database:
            database.execute(f"PRAGMA user_version = {wanted}")
        target.replace(path)
        _move_in(path)
    finally:
        os.close(folder)


def _artifacts(path: Path) -> str:
    """Where the artifacts of our experiments lie, beside their database."""
    return str(path.parent.resolve() / "mlartifacts")


def _move_in(path: Path) -> None:
    """Point a database to the artifacts beside it: MLflow stores whole paths, which after a move or a copy are those of the old folder."""
    here = _artifacts(path)
    with closing(sqlite3.connect(path, timeout=20)) as database, database:
        places = "SELECT DISTINCT artifact_location FROM experiments WHERE name LIKE 'vrpo-%' AND artifact_location LIKE '%/mlartifacts'"
        for (old,) in database.execute(places).fetchall():
            if old != here:
                for table, column in STORED_PATHS:
                    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?"
                    database.execute(change, (here, len(old) + 1, old, len(old) + 1, f"{old}/"))


def _user_version(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=20)) as database:
        return database.execute("PRAGMA user_version").fetchone()[0]


def mirror(path: Path, client: MlflowClient, *, closing: bool) -> None:
    """Send what MLflow does not yet hold of a record file; `closing`: its writer is gone, so an open run was killed.

    May be interrupted and repeated at will: runs are found by their record id, and MLflow drops a metric point it
    already holds. The side file `<label>.sync.json` (store, position, run) only spares the work.
    """
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the child of a stage and a `sync` by hand take turns
        _Mirror(path, client).catch_up(file.read(), closing=closing)


class _Mirror:
    """One pass over a record file. State: `position` in bytes; `run`, MLflow's id (None: deleted by the user); `open`; `held`, points of
    system metrics that wait for the first of another kind, None once that has come.

    MLflow's page that compares runs opens on the metric that came first to all of them: it should be one that says how good they are.
    """

    def __init__(self, path: Path, client: MlflowClient) -> None:
        self.client = client
        self.side = path.with_suffix(".sync.json")
        self.state = self._load()
        self.points: list[tuple[str, float, int, int]] = []  # key, value, milliseconds, step
        self.tags: dict[str, str] = {}

    def catch_up(self, content: bytes, *, closing: bool) -> None:
        position = self.state["position"]
        for line in content[position:].splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # still being written
            event = parse(line)
            if event and (event["event"] == "start" or self.state["run"]):
                if event["event"] != "metrics" or len(self.points) >= BATCH:
                    self._flush(position)
                getattr(self, f"_on_{event['event']}")(event)
            position += len(line)
        if closing and self.state["open"]:
            self._on_end({"status": "KILLED", "time": time.time()})
        if position != self.state["position"] or closing:
            self._flush(position)

    def _load(self) -> dict[str, Any]:
        """The side file's state; a fresh one if there is none, it is about another store, or its run vanished with a database."""
        from mlflow.exceptions import MlflowException

        fresh = {"uri": tracking_uri(), "position": 0, "run": None, "open": False, "held": None}
        saved = parse(self.side.read_bytes()) if self.side.exists() else None
        if not saved or saved.get("uri") != fresh["uri"]:
            return fresh
        try:
            if saved["run"] and self.client.get_run(saved["run"]).info.lifecycle_stage == "deleted":
                saved.update(run=None, open=False)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return fresh
        return fresh | saved

    def _flush(self, position: int) -> None:
        """Send what has gathered, then note that everything before `position` is in MLflow."""
        self._send()
        self.state["position"] = position
        write_json(self.side, self.state)

    def _send(self) -> None:
        from mlflow.entities import Metric, RunTag

        for first in range(0, len(self.points), BATCH):
            self.client.log_batch(self.state["run"], metrics=[Metric(*point) for point in self.points[first : first + BATCH]])
        tags = [RunTag(key, value) for key, value in self.tags.items()]
        for first in range(0, len(tags), 100):
            self.client.log_batch(self.state["run"], tags=tags[first : first + 100])
        self.points, self.tags = [], {}

    def _on_start(self, event: dict[str, Any]) -> None:
        from mlflow.entities import Param, ViewType

        if self.state["open"]:  # a new run of the stage: the one before was killed
            self._on_end({"status": "KILLED", "time": event["time"]})
        experiment = self._experiment(experiment_of(event["tags"]))
        found = self.client.search_runs([experiment], f"tags.`{RECORD_TAG}` = '{event['record']}'", ViewType.ALL, max_results=1)
        if found:
            run = found[0]
        else:
            tags = {**event["tags"], RECORD_TAG: event["record"]}
            run = self.client.create_run(experiment, _milliseconds(event), tags, event["name"])
        active = run.info.lifecycle_stage == "active"
        self.state.update(run=run.info.run_id if active else None, experiment=experiment, open=active, held=[])
        params = [Param(key, str(value)[:6000]) for key, value in event["params"].items()]
        for first in range(0, len(params) if active else 0, 100):
            self.client.log_batch(run.info.run_id, params=params[first : first + 100])

    def _on_resume(self, event: dict[str, Any]) -> None:
        self.client.update_run(self.state["run"], status="RUNNING")
        self.state["open"] = True

    def _on_metrics(self, event: dict[str, Any]) -> None:
        for key in sorted(event["values"], key=lambda key: key not in HEADLINE):
            value = event["values"][key]
            if isinstance(value, str):
                self.tags[key] = value[:5000]
            else:
                self.points.append((key, float(value), _milliseconds(event), event["step"] or 0))
        self._release()

    def _release(self) -> None:
        """Send the system metrics that waited."""
        self.points += map(tuple, self.state["held"] or ())
        self.state["held"] = None

    def _on_artifact(self, event: dict[str, Any]) -> None:
        if path := self._unchanged(event):
            (self.client.log_artifacts if path.is_dir() else self.client.log_artifact)(self.state["run"], str(path))

    def _on_model(self, event: dict[str, Any]) -> None:
        """The model stays where it is: MLflow gets its name, place, digest and metrics."""
        import mlflow
        from mlflow.entities import LoggedModelOutput, Metric

        run, kind = self.state["run"], event["kind"]
        known = self.client.search_logged_models([self.state["experiment"]], f"source_run_id = '{run}' AND name = '{kind}'")
        model = next((model for model in known if model.tags.get("digest") == event["digest"]), None)
        if model is None:
            tags = {"path": event["path"], "digest": event["digest"]}
            model = mlflow.create_external_model(kind, run, tags, model_type=kind, experiment_id=self.state["experiment"])
            self.client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
        numbers = {key: value for key, value in event["metrics"].items() if not isinstance(value, str)}
        step = event.get("step") or 0  # MLflow adds these points to the run's curves too; at step 0 they would bend them
        points = [Metric(key, float(value), _milliseconds(event), step, model_id=model.model_id) for key, value in numbers.items()]
        self.client.log_batch(run, metrics=points)

    def _on_system(self, event: dict[str, Any]) -> None:
        points = [(key, value, _milliseconds(event), event["step"]) for key, value in event["values"].items()]
        if self.state["held"] is None:
            self.points += points
        else:
            self.state["held"] += points

    def _on_dataset(self, event: dict[str, Any]) -> None:
        """The file stays where it is: MLflow gets its name, digest and number of rows."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source, profile = json.dumps({"uri": event["path"]}), json.dumps({"num_rows": event["rows"]})
        dataset = Dataset(event["path"].removeprefix("data/"), event["digest"][:32], "local", source, profile=profile)
        self.client.log_inputs(self.state["run"], [DatasetInput(dataset, [InputTag("mlflow.data.context", event["context"])])])

    def _on_champion(self, event: dict[str, Any]) -> None:
        from pipeline.tracking.champion import propose

        verdict = propose(self.client, self.state, event, lambda: self._unchanged(event))
        self.tags["champion"] = f"{event['name']}: {verdict}"

    def _on_end(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.tags["error"] = event["error"]
        self._release()
        self._send()  # whoever sees a closed run may count on all that it holds
        self.client.set_terminated(self.state["run"], event["status"], _milliseconds(event))
        self.state["open"] = False

    def _experiment(self, name: str) -> str:
        """Id of the experiment, created when it is missing; another process may create it at the same moment."""
        from mlflow.exceptions import MlflowException

        uri = self.state["uri"]
        place = _artifacts(Path(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:///") else None
        if experiment := self.client.get_experiment_by_name(name):
            return experiment.experiment_id
        try:
            return self.client.create_experiment(name, place)
        except MlflowException:
            return self.client.get_experiment_by_name(name).experiment_id

    def _unchanged(self, event: dict[str, Any]) -> Path | None:
        """The event's path while it holds what it held then; otherwise a tag says that it came too late."""
        path = Path(event["path"])
        if path.exists() and digest(path) == event["digest"]:
            return path
        self.tags[f"missing/{path.name}"] = f"{path} changed before it was sent"
        return None


def experiment_of(tags: dict[str, str]) -> str:
    """RL runs lie flat in one experiment, where the charts lay them over each other; a study's and benchmarks in ones of their own; all
    else is the pipeline's."""
    if "study" in tags:
        return f"vrpo-study-{tags['study']}"
    return {"train": "vrpo-runs", "benchmark": "vrpo-benchmarks"}.get(tags["stage"], "vrpo-pipeline")


def _milliseconds(event: dict[str, Any]) -> int:
    return round(event["time"] * 1000)
