"""Record files: what the stages did, as JSON lines, written as it happens.

Events, each with `time` in seconds since 1970:
    start     name, tags, params, record (an id), pid      artifact  path, digest
    resume    pid; the run above it goes on                model     path, digest, kind, step, metrics
    metrics   step (or null), values                       champion  path, digest, name, accuracy, problems, data
    system    step, values; of the process and its machine dataset   path, digest, context, rows
    end       status (FINISHED or FAILED), error           Paths are relative to the project's folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import time
import uuid
from pathlib import Path
from typing import Any

FOLDER = Path("data/tracking")


def flatten(values: dict[str, Any], separator: str = "/", prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested dictionaries to one level of plain JSON values. None is left out; lists, NaN and infinities become text."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        name = prefix + re.sub(r"[^\w/.: -]", "_", str(key))
        value = value.item() if hasattr(value, "item") else value
        if isinstance(value, dict):
            flat |= flatten(value, separator, name + separator)
        elif isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            flat[name] = value
        elif value is not None:
            flat[name] = str(value)
    return flat


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder."""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                total.update(f"{file.relative_to(path)}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a record file; a line that a kill cut short is left out."""
    return [event for line in path.read_bytes().splitlines() if (event := parse(line))] if path.exists() else []


def parse(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is not one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


class Record:
    """Appends events to one record file. A file holds the runs of one stage, one after the other.

    After a run that did not finish, the next run's start is held back until its first event: if that is `resume` with rows
    the unfinished run holds, the record continues that run, else it starts a new one.
    """

    def __init__(self, path: Path, start: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        if torn:
            self._file.write("\n")
        self._start: dict[str, Any] | None = {
            "event": "start",
            "record": uuid.uuid4().hex,
            "time": time.time(),
            "pid": os.getpid(),
            **start,
        }
        self._steps: dict[int, dict[str, Any]] = {}  # what this run holds already
        self._lock = threading.Lock()  # system metrics come from a thread of their own
        self._unfinished = _steps_of_unfinished_run(path)
        if self._unfinished is None:
            self._begin()

    def metrics(self, values: dict[str, Any], step: int | None = None) -> None:
        """Log numbers; other values become tags. What this run already holds for `step` is not written again, nor without a step what it
        holds for any: as a point at step 0 it would bend the curve."""
        flat = flatten(values)
        if step is None:
            held = set().union(*self._steps.values())
            flat = {key: value for key, value in flat.items() if key not in held}
        if step is not None:
            known = self._steps.setdefault(step, {})
            flat = {key: value for key, value in flat.items() if key not in known}
            known.update(flat)
        if flat:
            self._write("metrics", step=step, values=flat)

    def artifact(self, path: str | Path) -> None:
        """Log a file or folder. It is uploaded only while it still has the contents it has now."""
        self._write("artifact", path=Path(path).as_posix(), digest=digest(Path(path)))

    def model(self, path: str | Path, kind: str, metrics: dict[str, Any]) -> None:
        """Log a model that stays where it is, with what it reached at the last step; `kind` names it ("base", "sft", "reward", "policy",
        "value")."""
        fields = {"step": max(self._steps, default=None), "metrics": flatten(metrics)}
        self._write("model", path=Path(path).as_posix(), digest=digest(Path(path)), kind=kind, **fields)

    def dataset(self, path: str | Path, context: str) -> None:
        """Log a JSONL file that the run learns from or is measured on; `context` tells which ("training", "validation", "test")."""
        path = Path(path)
        with path.open("rb") as file:
            rows = sum(1 for line in file if line.strip())
        self._write("dataset", path=path.as_posix(), digest=digest(path), context=context, rows=rows)

    def system(self, values: dict[str, float], step: int) -> None:
        """Log what the process and its machine are doing; left out until the run's first event, which decides whether it goes on."""
        if self._start is None:
            self._append({"event": "system", "time": time.time(), "step": step, "values": flatten(values)})

    def champion(self, runs: list[dict[str, Any]], folder: str | Path = "data/runs") -> str:
        """Propose the policy of the run with the best mean held-out accuracy as champion; ties go to the first.

        `runs` are evaluations as in `summary.json`, of which `accuracy` also says on how many problems ("n") of which file ("data", a
        digest); their policies lie in `folder/<method>-<seed>/policy`. Returns "<method>-<seed>".
        """
        best = max(runs, key=lambda run: run["accuracy"]["mean"])
        name, accuracy = f"{best['method']}-{best['seed']}", best["accuracy"]
        path = Path(folder) / name / "policy"
        fields = {"accuracy": accuracy["mean"], "problems": accuracy.get("n"), "data": accuracy.get("data")}
        self._write("champion", path=path.as_posix(), digest=digest(path), name=name, **fields)
        return name

    def resume(self, rows: list[dict[str, Any]]) -> None:
        """Tell, before anything else is logged, that a training goes on after `rows` (each with its "iteration").

        The unfinished run they come from is continued; if there is none, they become the beginning of this run.
        """
        held = self._unfinished or {}
        replayed = {row["iteration"]: flatten(row) for row in rows}
        shared = replayed.keys() & held.keys()
        if shared and all(held[step] == replayed[step] for step in shared):
            self._start, self._unfinished, self._steps = None, None, held
            self._write("resume", pid=os.getpid())
        for step, row in replayed.items():
            self.metrics(row, step)

    def end(self, status: str, error: str = "") -> None:
        """Close the record: status FINISHED or FAILED, with the reason."""
        self._write("end", status=status, **({"error": error} if error else {}))
        self.close()

    def close(self) -> None:
        """Release the file; what the run holds stays open for one that goes on with it."""
        self._file.close()

    def _begin(self) -> None:
        start, self._start = self._start, None
        if start:
            self._append(start)

    def _write(self, event: str, **fields: Any) -> None:
        self._begin()
        self._append({"event": event, "time": time.time(), **fields})

    def _append(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()


def _steps_of_unfinished_run(path: Path) -> dict[int, dict[str, Any]] | None:
    """The values per step of the file's last run; None if it finished or there is none."""
    steps: dict[int, dict[str, Any]] | None = None
    for event in read_events(path):
        if event["event"] == "start":
            steps, finished = {}, False
        elif steps is not None and event["event"] == "metrics" and event["step"] is not None:
            steps.setdefault(event["step"], {}).update(event["values"])
        elif event["event"] == "end":
            finished = event["status"] == "FINISHED"
    return None if steps is None or finished else steps
