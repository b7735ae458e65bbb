"""Bring the pipeline up to date: what `dvc repro` does, with cells side by side and one view of what they do.

    python -m pipeline.repro --jobs 2

Runs of one checkout take turns. On a terminal each running stage has a line, with the reward and the held-out accuracy of a training; elsewhere
a line says when a stage begins and ends. Records reach MLflow together at the end: a mirror beside each short stage would cost more than many a stage.
Exit code 1 if a stage failed; what does not depend on it has run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import preflight
from pipeline.arguments import new_parser
from pipeline.environment import TELEMETRY_OFF
from pipeline.leash import interrupt_on_signals
from pipeline.orchestration.runner import Outcome, Runner, Stage, read_graph_with_parameters, take_turn
from pipeline.params import load_params
from pipeline.tracking import send
from pipeline.tracking.file import FOLDER, read_events
from vrpo.console.arguments import whole
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError

REFRESH_SECONDS = 1.0
SHOWN = {"reward/observed": "reward", "validation/accuracy": "held-out accuracy"}  # metrics of a running training
NEXT = """
Report      data/reports/report.html (as text: data/reports/report.md)
Runs        make ui, metrics and models in MLflow
Next        profile or domain in params.yaml, or one value:  dvc exp run --temp -S train.gae_lambda=0.95"""


class View:
    """What runs and what has run; lines of text where there is no terminal."""

    def __init__(self, stages: list[Stage]) -> None:
        self.total, self.done, self.running = len(stages), 0, dict[str, float]()
        self.live: Any = None

    @contextmanager
    def shown(self) -> Iterator[View]:
        """Refresh the running stages' lines on a terminal."""
        if not sys.stdout.isatty():
            yield self
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(), get_renderable=self.render, refresh_per_second=1 / REFRESH_SECONDS) as self.live:
            yield self

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.live:
            self.live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def begin(self, name: str) -> None:
        self.running[name] = time.monotonic()
        if not self.live:
            self.say(f"{name}: begins")

    def end(self, name: str, outcome: Outcome) -> None:
        self.done += 1
        self.running.pop(name, None)
        if outcome.state != "Cached":
            self.say(f"{name}: {outcome.state.lower()}, {outcome.seconds:.1f} s{progress(name) if outcome.state == 'Ran' else ''}")
        if outcome.state == "Failed":
            self.say(outcome.tail)

    def render(self) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, start in list(self.running.items()):
            table.add_row(name, f"{time.monotonic() - start:.0f} s", progress(name).removeprefix(": "))
        table.add_row(f"{self.done} of {self.total} stages done")
        return table


def progress(name: str) -> str:
    """Of a training, how far its record says it is: ": 2,160 rollouts, reward 0.71, held-out accuracy 0.63"; of others nothing."""
    stage, _, cell = name.partition("@")
    path = FOLDER / f"train-{cell}.jsonl"
    if stage != "train" or not path.exists():
        return ""
    latest: dict[str, float] = {}
    for event in read_events(path):
        if event["event"] == "start":
            latest = {}
        elif event["event"] == "metrics" and event["step"] is not None:
            latest |= event["values"]
    parts = [f"{latest['rollouts']:,.0f} rollouts"] if "rollouts" in latest else []
    return ": " + ", ".join(parts + [f"{label} {latest[key]:.3f}" for key, label in SHOWN.items() if key in latest]) if parts else ""


def bring_up_to_date(runner: Runner, stages: list[Stage], view: View) -> dict[str, Outcome]:
    """Run what is stale, each stage after those it depends on; what depends on a failure is skipped."""
    outcome: dict[str, Outcome] = {}
    waiting, running = list(stages), dict[Future[Outcome], str]()

    def reproduce(name: str) -> Outcome:
        return runner.run(name, only_warnings(lambda line: view.say(f"{name}: {line}")))

    with ThreadPoolExecutor(runner.jobs) as pool, runner.stopping_on_errors():
        while waiting or running:
            for stage in waiting[:]:
                if not all(other in outcome for other in stage.upstream):
                    continue
                before = {outcome[other].state for other in stage.upstream}
                if before & {"Failed", "Skipped"} or (stage.clean and before <= {"Cached"}):
                    waiting.remove(stage)
                    outcome[stage.name] = Outcome("Skipped" if before & {"Failed", "Skipped"} else "Cached", 0.0)
                    view.end(stage.name, outcome[stage.name])
                elif len(running) < runner.jobs:
                    waiting.remove(stage)
                    view.begin(stage.name)
                    running[pool.submit(reproduce, stage.name)] = stage.name
            for future in wait(running, timeout=None if running else 0, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                outcome[name] = future.result()
                view.end(name, outcome[name])
    return outcome


def only_warnings(say: Callable[[str], object]) -> Callable[[str], object]:
    """Of a stage's lines, those that people should see though all went well."""
    return lambda line: say(line) if line.startswith("warning:") else None


def run(root: Path, jobs: int) -> int:
    """Reproduce the graph in `root`'s turn; returns the exit code."""
    preflight.check(load_params(root / "params.yaml"))
    preflight.warn_of_masked(root / "params.yaml")
    runner = Runner(root, jobs, "repro", {"MLFLOW_TRACKING_URI": "off"})
    with take_turn(root, lambda text: print(text, file=sys.stderr)):
        stages = read_graph_with_parameters(runner, only_warnings(lambda line: print(line, file=sys.stderr)))
        with View(stages).shown() as view:
            outcome = bring_up_to_date(runner, stages, view)
        if all(stage.state == "Cached" for stage in outcome.values()):
            print("data/reports is up to date")
            return 0
        send.sync_or_warn()
    failed = sorted(name for name, stage in outcome.items() if stage.state == "Failed")
    print(f"\nfailed: {', '.join(failed)}; `make repro` goes on where it stopped" if failed else NEXT)
    return 1 if failed else 0


def main() -> None:
    speak_safely()
    parser = new_parser("pipeline.repro", __doc__)
    parser.add_argument("--jobs", type=whole(1), default=2, help="stages that run at the same time (default: %(default)s)")
    options = parser.parse_args()
    interrupt_on_signals()
    for key, value in TELEMETRY_OFF.items():
        os.environ.setdefault(key, value)
    try:
        code = run(Path.cwd(), options.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped: the running stages were ended; the same command goes on where they were", file=sys.stderr)
        raise SystemExit(130) from None
    raise SystemExit(code)


if __name__ == "__main__":
    main()
