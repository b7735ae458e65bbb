"""One run of a stage, recorded as it happens; see `pipeline.tracking.__main__` for what becomes of records."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.params import Params
from pipeline.tracking.file import FOLDER, Record, flatten
from pipeline.tracking.mirror import tracking_uri
from pipeline.tracking.send import public
from vrpo.rewards.noise.base import percent

SYSTEM_SECONDS = 10.0  # between two readings of process and machine
GRACE_SECONDS = 15.0  # how long the end of a stage waits for the mirror, which then goes on alone


@contextmanager
def record(
    label: str, *, stage: str, params: Params, arguments: tuple[Any, ...] = (), tags: dict[str, str] | None = None
) -> Iterator[Record]:
    """Record one run of a stage in `data/tracking/<label>.jsonl` and mirror it to MLflow.

    `arguments` are the method and seed of a cell of the matrix; `tags` name a run that is no stage of the graph. MLflow's troubles never
    raise; where it refuses, one warning line says so. Where it is merely slow, nothing is lost and nothing said.
    """
    event = start_event(label, stage=stage, params=params, arguments=arguments)
    if tags:
        event |= {"name": " ".join([stage, *tags.values()]), "tags": event["tags"] | tags}
    path = record_folder() / f"{label}.jsonl"
    run = Record(path, event)
    follower = _start_follower(path)
    try:
        with _system_metrics(run):
            yield run
    except BaseException as error:
        run.end("FAILED", f"{type(error).__name__}: {error}"[:1000])
        raise
    else:
        run.end("FINISHED")
    finally:
        if follower and (reason := _finish_follower(follower)):
            advice = f"{path} holds the record, `python -m pipeline.tracking sync` sends it later"
            print(f"warning: MLflow ({public(tracking_uri())}) did not take all of {label}: {reason}; {advice}", file=sys.stderr)


def record_folder() -> Path:
    """Where records go. Those of a temporary experiment folder, which vanishes with its files, go to the project it belongs to."""
    root = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    return FOLDER if root == Path.cwd().resolve() else root / FOLDER / os.environ.get("DVC_EXP_NAME", "experiment")


def start_event(label: str, *, stage: str, params: Params, arguments: tuple[Any, ...] = (), **tags: str) -> dict[str, Any]:
    """Name, tags and parameters of a run; a name that people understand, tags that they filter by."""
    values = params.model_dump()
    cell: dict[
        str, Any
    ] = {}  # what tells the runs of one pipeline apart; MLflow's page that compares runs plots the parameters that differ
    noise = describe_noise(params)
    tags |= {"stage": stage, "dvc_stage": os.environ.get("DVC_STAGE", stage), "label": label, "profile": params.profile, "noise": noise}
    tags |= {"domain": values["domain"], "git": code_version()}
    name = f"{stage} ({params.profile})"
    if arguments:
        method, seed = map(str, arguments)
        cell = {"method": method, "seed": seed}
        tags |= cell
        name = f"{method.upper()} seed {seed}, {noise}" if stage == "train" else f"{stage} {method.upper()} seed {seed}"
    if experiment := os.environ.get("DVC_EXP_NAME"):
        name = f"{name}, {experiment}"  # the same cells of two experiments lie side by side in MLflow
    if pipeline_run := os.environ.get("PIPELINE_RUN") or os.environ.get("DVC_EXP_NAME"):
        tags["pipeline_run"] = pipeline_run
    return {"name": name, "tags": tags, "params": cell | flatten(values, ".")}


def describe_noise(params: Params) -> str:
    """The noise of a run's rewards in a few words."""
    label, reward = params.label, params.reward
    if reward.kind == "rule":
        sources = {"majority_vote": f"majority vote of {label.votes}", "dataset": "labels of the data set", "clean": "clean labels"}
        parts = [sources[label.source], *[f"{percent(label.wrong_reference_rate)} wrong references"] * bool(label.wrong_reference_rate)]
    elif reward.kind == "function":
        parts = [f"own reward {reward.function}"]
    else:
        name = {"model": "reward model", "implicit": "implicit reward"}[reward.kind]
        parts = [name, f"{percent(reward.label_error)} wrong pairs"]
    return ", ".join([*parts, *(channel.describe() for channel in params.noise)])


@contextmanager
def _system_metrics(run: Record) -> Iterator[None]:
    """Log processor and memory of this process and of its machine every few seconds, under MLflow's names."""
    import psutil

    process, done = psutil.Process(), threading.Event()

    def sample() -> None:
        for step in itertools.count():
            if done.wait(SYSTEM_SECONDS):
                return
            memory = psutil.virtual_memory()
            values = {
                "system/process_cpu_percentage": process.cpu_percent(),
                "system/process_memory_megabytes": process.memory_info().rss / 1e6,
                "system/cpu_utilization_percentage": psutil.cpu_percent(),
                "system/system_memory_usage_megabytes": memory.used / 1e6,
                "system/system_memory_usage_percentage": memory.percent,
            }
            run.system({key: round(value, 1) for key, value in values.items()}, step)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def code_version() -> str:
    """The commit of this code, with "-dirty" after uncommitted changes to it (not to reports and data); "none" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", *arguments]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "*.py", "../vrpo/*.py")
        return git("describe", "--always", "--abbrev=12") + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _start_follower(path: Path) -> subprocess.Popen[str] | None:
    """Start the child that mirrors `path`. In a session of its own it outlives a killed stage and closes its run as KILLED."""
    if tracking_uri() == "off":
        return None
    search_path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.tracking", "follow", str(path), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search_path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _finish_follower(follower: subprocess.Popen[str]) -> str:
    """Tell the child that the stage is over and wait a while. Returns why MLflow did not take everything, or "".

    On a busy machine its imports alone may take longer than a stage should wait: it goes on alone then, and ends by itself.
    """
    try:
        output, _ = follower.communicate(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return ""
    return (output.strip().splitlines() or ["the mirror process died"])[-1] if follower.returncode else ""
