"""DVC's stages as processes: the graph, one stage or one experiment at a time, and the lock that makes runs of one checkout take turns."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path

from pipeline.leash import STOP_SECONDS
from pipeline.stages.stage import RETRYABLE
from vrpo.errors import UserError
from vrpo.files import hold

LEASH = Path(__file__).parents[1] / "leash.py"
HINTS = (  # of DVC after each stage that wrote something; `core.autostage`, which ends them, would put files into the user's index instead
    "To track the changes with git, run:",
    "\tgit add ",
    "To enable auto staging, run:",
    "\tdvc config core.autostage true",
    "Use `dvc push` to send your updates to remote storage.",
)
TAIL = 15  # lines of a stage's log that are kept to explain a failure


@dataclass(frozen=True)
class Stage:
    """One stage of the graph; `clean`: DVC saw no change in its own dependencies, parameters and outputs."""

    name: str
    upstream: tuple[str, ...]
    clean: bool


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "Ran", "Cached", "Restored" (its outputs, from an earlier run on the same inputs) or "Failed"; seconds; and of a
    failure the end of its log and whether trying again may help."""

    state: str
    seconds: float
    tail: str = ""
    retryable: bool = False


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
    """Runs stages as processes, at most `jobs` at a time, and can stop them all. `run_name` tags their records, `environment` is added to
    theirs."""

    root: Path
    jobs: int
    run_name: str = "flow"
    environment: dict[str, str] = field(default_factory=dict)
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.jobs)

    def run(self, stage: str, log: Callable[[str], object]) -> Outcome:
        """Reproduce one stage, passing its output to `log` line by line.

        Cached: something upstream ran but came to the same result, so DVC found nothing to do.
        """
        with self._slots:
            return follow(stage, self.lines("--wait-for-lock", "repro", "--single-item", stage), log)

    def experiment(self, settings: list[str], name: str) -> Iterator[tuple[str, Iterator[str | int]]]:
        """Run the graph with other parameters (`section.key=value`) in a folder of its own; the checkout stays as it is.

        Yields each stage's name with its lines, which are for `follow`.
        """
        options = itertools.chain.from_iterable(("-S", setting) for setting in settings)
        yield from by_stage(self.lines("exp", "run", "--temp", "-n", name, *options))

    def lines(self, *arguments: str) -> Iterator[str | int]:
        """Run a DVC command; yields the lines that it prints and in the end its exit code."""
        if self._stopping.is_set():
            yield 130
            return
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])  # stages call plain `python`
        process = subprocess.Popen(
            [sys.executable, LEASH, sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env={**os.environ, "PATH": path, "PIPELINE_RUN": self.run_name, "PYTHONUNBUFFERED": "1"} | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._running.add(process)
        if self._stopping.is_set():  # stop() came between the check and the start
            self.stop()
        for line in process.stdout or ():
            text = line.decode(errors="replace").rstrip().rpartition("\r")[2]  # of a progress bar, its last state
            if text and not text.startswith(HINTS):
                yield text
        yield process.wait()
        self._running.discard(process)

    @contextmanager
    def stopping_on_errors(self) -> Iterator[None]:
        """Leave no stage running when the block is left by an exception, Ctrl-C among them."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all running stages with their children, and start no more."""
        self._stopping.set()
        running = list(self._running)
        for process in running:
            with suppress(OSError):
                process.stdin.close()  # the leash does the rest
        deadline = time.monotonic() + STOP_SECONDS + 2
        while any(process.poll() is None for process in running) and time.monotonic() < deadline:
            time.sleep(0.05)


def read_graph_with_parameters(runner: Runner, log: Callable[[str], object]) -> list[Stage]:
    """The graph once its first stage has told which parameters hold: only then DVC knows what is stale.

    Raises:
        UserError: the parameters are wrong.
    """
    stages = read_graph(runner.root)
    if all(stage.clean for stage in stages if stage.name == "params"):
        return stages
    with runner.stopping_on_errors():
        ended = runner.run("params", log)
    if ended.state == "Failed":
        raise UserError(ended.tail)
    return read_graph(runner.root)


def by_stage(lines: Iterator[str | int]) -> Iterator[tuple[str, Iterator[str | int]]]:
    """Cut the output of a whole `dvc repro` into that of its stages; what comes before the first belongs to "start"."""
    name = "start"

    def numbered() -> Iterator[tuple[int, str, str | int]]:
        nonlocal name
        part = 0
        for line in lines:
            if isinstance(line, str) and (found := re.match(r"(?:Running stage|Stage) '([^']+)'", line)):
                name, part = found[1], part + 1
            yield part, name, line

    for (_, stage), group in itertools.groupby(numbered(), key=lambda item: item[:2]):
        yield stage, (line for _, _, line in group)


def follow(stage: str, lines: Iterator[str | int], log: Callable[[str], object]) -> Outcome:
    """Pass a stage's lines on and tell how it ended."""
    start, state, retryable = time.monotonic(), "Ran", False
    tail: deque[str] = deque(maxlen=TAIL)
    for text in lines:
        if isinstance(text, int):
            state = "Failed" if text else state
            break
        log(text)
        tail.append(text)
        if text == f"Stage '{stage}' didn't change, skipping":
            state = "Cached"
        elif text.startswith(f"Stage '{stage}' is cached - skipping run"):
            state = "Restored"
        retryable |= text.endswith(f"exited with {RETRYABLE}")
    seconds = time.monotonic() - start
    return Outcome(state, seconds, "\n".join(tail), retryable) if state == "Failed" else Outcome(state, seconds)


@contextmanager
def take_turn(root: Path, wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the checkout's lock, so that two runs do not work on the same files. With `wait`, which is told who has it, queue for it.

    Raises:
        UserError: another run holds it, and `wait` is None.
    """

    def busy(holder: str) -> None:
        if wait is None:
            raise UserError(f"another flow (process {holder}) is running in {root}; wait for it or stop it")
        wait(f"waiting for the run of process {holder}, which works in this checkout")

    with hold(root / ".dvc" / "tmp" / "flow.lock", busy):
        yield
