"""The DVC pipeline as a Prefect flow: python -m pipeline.flow [--jobs N].

One task per DVC stage, in the order of DVC's own graph. DVC decides what is stale: a clean stage becomes state Cached without
a process, any other runs as `dvc repro --single-item` and ends as Ran or Failed; stages downstream of a failure are Skipped.
Prefect adds parallel stages, streamed logs and a history (in .prefect/). It needs no server: without PREFECT_API_URL a
temporary one runs on the loopback interface. Exit code 1 if a stage failed. The only file that imports prefect.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from pipeline.stage import TELEMETRY_OFF
from vrpo.config import UserError

STOP_SECONDS = 5.0  # between asking a stage to stop and killing it


@dataclass(frozen=True)
class Stage:
    """One stage of the graph; `clean`: DVC saw no change in its own dependencies, parameters and outputs."""

    name: str
    upstream: tuple[str, ...]
    clean: bool


def read_graph(root: Path) -> list[Stage]:
    """DVC's stages, each after those it depends on; cells of a matrix are stages of their own ("train@ppo-0")."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            changed = repo.status()
            graph = repo.index.graph  # edges point from a stage to what it depends on
            order = TopologicalSorter({stage: list(graph.successors(stage)) for stage in graph}).static_order()
            return [
                Stage(
                    stage.addressing,
                    tuple(other.addressing for other in graph.successors(stage) if other.cmd),
                    stage.addressing not in changed,
                )
                for stage in order
                if stage.cmd
            ]
    except DvcException as error:
        raise UserError(f"dvc.yaml: {' '.join(str(error).split())}; `dvc status` shows more") from error


@dataclass
class Runner:
    """Runs stages as processes, at most `jobs` at a time, and can stop them all."""

    root: Path
    jobs: int
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.jobs)

    def run(self, stage: str, log: Callable[[str], object], run_name: str) -> tuple[str, float]:
        """Reproduce one stage, passing its output to `log` line by line. Returns Ran, Cached or Failed, and seconds.

        Cached: something upstream ran but came to the same result, so DVC found nothing to do.
        """
        with self._slots:
            start = time.monotonic()
            unchanged = f"Stage '{stage}' didn't change, skipping"
            state = "Ran"
            process = self._start(stage, run_name)
            if process is None:
                return "Failed", 0.0
            for line in process.stdout or ():
                text = line.decode(errors="replace").rstrip().rpartition("\r")[2]  # of a progress bar, its last state
                if text:
                    log(text)
                if text == unchanged:
                    state = "Cached"
            code = process.wait()
            self._running.discard(process)
            return state if code == 0 else "Failed", time.monotonic() - start

    def _start(self, stage: str, run_name: str) -> subprocess.Popen[bytes] | None:
        if self._stopping.is_set():
            return None
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])  # stages call plain `python`
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage],
            cwd=self.root,
            env={**os.environ, "PATH": path, "PIPELINE_RUN": run_name, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one process group with the trainer: a signal to DVC alone would orphan it
        )
        self._running.add(process)
        if self._stopping.is_set():  # stop() came between the check and the start
            self.stop()
        return process

    def stop(self) -> None:
        """End all running stages with their children, and start no more."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_SECONDS
        for end in (signal.SIGTERM, signal.SIGKILL):
            for process in list(self._running):
                if process.poll() is None or end == signal.SIGKILL:
                    _signal_group(process.pid, end)
            while end == signal.SIGTERM and any(process.poll() is None for process in list(self._running)) and time.monotonic() < deadline:
                time.sleep(0.05)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


@contextmanager
def only_flow(root: Path) -> Iterator[None]:
    """Hold the checkout's lock.

    Raises:
        UserError: another flow holds it.
    """
    path = root / ".dvc" / "tmp" / "flow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"another flow (process {file.read().strip()}) is running in {root}; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def run_flow(root: Path, jobs: int) -> dict[str, tuple[str, float]]:
    """Run the whole graph. Returns state (Cached, Ran, Failed, Skipped) and seconds of every stage."""
    defaults = {"PREFECT_HOME": str(root / ".prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
    for key, value in {**TELEMETRY_OFF, **defaults}.items():
        os.environ.setdefault(key, value)
    stages = {stage.name: stage for stage in read_graph(root)}

    from prefect import flow, get_run_logger, task
    from prefect.cache_policies import NO_CACHE
    from prefect.runtime import flow_run
    from prefect.states import Completed, Failed, State
    from prefect.task_runners import ThreadPoolTaskRunner

    runner = Runner(root, jobs)
    outcome: dict[str, tuple[str, float]] = {}

    @task(task_run_name="{name}", cache_policy=NO_CACHE)
    def stage(name: str) -> State:
        if stages[name].clean and all(outcome[other][0] == "Cached" for other in stages[name].upstream):
            outcome[name] = ("Cached", 0.0)
        else:
            outcome[name] = runner.run(name, get_run_logger().info, flow_run.name)
        state, seconds = outcome[name]
        return (Failed if state == "Failed" else Completed)(name=state, message=f"{seconds:.1f} s")

    # A task holds its thread while it waits for those upstream: a thread for each, and the runner's slots limit the work.
    @flow(name="vrpo", task_runner=ThreadPoolTaskRunner(max_workers=max(len(stages), 1)))
    def pipeline() -> State:
        futures = {}
        try:
            for name, entry in stages.items():
                futures[name] = stage.submit(name, wait_for=[futures[other] for other in entry.upstream])
            for future in futures.values():
                future.wait()
        except BaseException:
            runner.stop()
            raise
        for name in stages:
            outcome.setdefault(name, ("Skipped", 0.0))
        failed = [name for name, (state, _) in outcome.items() if state == "Failed"]
        return Failed(message=f"failed: {', '.join(failed)}") if failed else Completed(message=f"{len(stages)} stages")

    pipeline(return_state=True)
    return {name: outcome.get(name, ("Skipped", 0.0)) for name in stages}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.flow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2, help="stages that run at the same time (default: %(default)s)")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped flow stops its stages, as Ctrl-C does
    root = Path.cwd()
    try:
        if not (root / "dvc.yaml").exists():
            raise UserError(f"{root / 'dvc.yaml'}: not found; run from the project's folder")
        with only_flow(root):
            outcome = run_flow(root, options.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped: the running stages were ended; `python -m pipeline.flow` goes on where they were", file=sys.stderr)
        raise SystemExit(130) from None
    width = max(map(len, ["stage", *outcome]))
    print(f"\n{'stage':{width}}  state    seconds")
    for name, (state, seconds) in outcome.items():
        print(f"{name:{width}}  {state:7}  {seconds:7.1f}")
    raise SystemExit(any(state == "Failed" for state, _ in outcome.values()))


if __name__ == "__main__":
    main()
