"""The Prefect flows: `reproduce`, one task per DVC stage, and `study`, one task per cell of a study. The only file that imports prefect.

`prefect.yaml` deploys them, `python -m pipeline.flow` runs the first from the command line. DVC decides what is stale: a clean stage becomes
state Cached without a process, any other runs as `dvc repro --single-item` and ends as Ran, Restored (DVC had its outputs already) or
Failed, with the end of its log as the message; stages downstream of a failure are Skipped. Only a stage that exits with code 75 is tried
again. Runs of one checkout take turns.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from pipeline.orchestration.runner import Outcome, Runner, follow, read_graph_with_parameters, take_turn

REPORTS = "data/reports"
RETRY_SECONDS = [10, 60]  # before the second and the third attempt of a stage that may be tried again
MAX_STAGES = 256  # a task holds its thread while it waits for those upstream: the runner's slots limit the work, not the threads


class StagesFailed(Exception):
    """Some stages failed; `outcome` tells of all."""

    def __init__(self, outcome: dict[str, Outcome]) -> None:
        super().__init__(", ".join(name for name, stage in outcome.items() if stage.state == "Failed"))
        self.outcome = outcome


@flow(name="reproduce", task_runner=ThreadPoolTaskRunner(max_workers=MAX_STAGES))
def reproduce(profile: str | None = None, domain: str | None = None, overrides: list[str] | None = None, jobs: int = 2) -> State:
    """Bring the pipeline up to date, `jobs` stages at a time; with other parameters, as an experiment beside the checkout.

    Args:
        profile: a profile of params.yaml.
        domain: a domain of params.yaml.
        overrides: further parameters, each "section.key=value".
        jobs: stages that run at the same time; those of an experiment run one after the other.
    """
    logger = get_run_logger()
    settings = experiment_settings({"profile": profile, "domain": domain}, overrides or [])
    root = Path.cwd()
    runner = Runner(root, jobs, flow_run.name)
    with take_turn(root, logger.info):
        with runner.stopping_on_errors():  # a cancelled run ends its stages; their checkpoints stay
            outcome = _experiment(runner, settings) if settings else _workspace(runner)
        failed = [name for name, stage in outcome.items() if stage.state == "Failed"]
        if failed:
            tails = "\n\n".join(f"{name}:\n{outcome[name].tail}" for name in failed)
            return Failed(message=f"failed: {', '.join(failed)}\n\n{tails}", data=StagesFailed(outcome))
        with experiment_files(root, experiment_name()) if settings else nullcontext(root / REPORTS) as reports:
            publish_report(reports)
    return Completed(message=f"{len(outcome)} stages" + (f"; experiment {experiment_name()}" if settings else ""), data=outcome)


def experiment_settings(known: dict[str, str | None], overrides: list[str]) -> list[str]:
    """What `dvc exp run -S` takes.

    Raises:
        ValueError: an override is not of the form "key=value".
    """
    for override in overrides:
        if not re.fullmatch(r"[\w.]+=.*", override):
            raise ValueError(f"overrides: {override!r} is not of the form section.key=value, e.g. train.gae_lambda=0.8")
    return [f"{key}={value}" for key, value in known.items() if value] + overrides


def experiment_name() -> str:
    """The flow run's name; a run that is started again needs another one."""
    return flow_run.name if flow_run.run_count < 2 else f"{flow_run.name}-{flow_run.run_count}"


def _workspace(runner: Runner) -> dict[str, Outcome]:
    """All stages in the order of the graph, independent ones side by side."""
    stages = {stage.name: stage for stage in read_graph_with_parameters(runner, get_run_logger().info)}
    outcome: dict[str, Outcome] = {}

    def retryable(task: Any, run: Any, state: State) -> bool:
        return outcome[run.name].retryable

    @task(
        task_run_name="{name}",
        cache_policy=NO_CACHE,
        retries=len(RETRY_SECONDS),
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=retryable,
    )
    def stage(name: str) -> State:
        if stages[name].clean and all(outcome[other].state == "Cached" for other in stages[name].upstream):
            outcome[name] = Outcome("Cached", 0.0)
        else:
            outcome[name] = runner.run(name, get_run_logger().info)
        return _state(outcome[name])

    futures: dict[str, Any] = {}
    for name, entry in stages.items():
        futures[name] = stage.submit(name, wait_for=[futures[other] for other in entry.upstream])
    for future in futures.values():
        future.wait()
    return {name: outcome.get(name, Outcome("Skipped", 0.0)) for name in stages}


def _experiment(runner: Runner, settings: list[str]) -> dict[str, Outcome]:
    """All stages one after the other, as `dvc exp run` goes through them."""
    outcome: dict[str, Outcome] = {}
    logs: dict[str, Iterator[str | int]] = {}

    @task(task_run_name="{name}", cache_policy=NO_CACHE)
    def stage(name: str) -> State:
        outcome[name] = follow(name, logs[name], get_run_logger().info)
        return _state(outcome[name])

    for name, lines in runner.experiment(settings, experiment_name()):
        logs[name] = lines
        stage(name, return_state=True)
    return outcome


def _state(outcome: Outcome) -> State:
    if outcome.state == "Failed":
        return Failed(name="Failed", message=f"after {outcome.seconds:.1f} s; the end of the log:\n{outcome.tail}")
    return Completed(name=outcome.state, message=f"{outcome.seconds:.1f} s")


@contextmanager
def experiment_files(root: Path, name: str) -> Iterator[Path]:
    """The report of a finished experiment, from git and DVC's cache, in a folder for the time being."""
    from dvc.api import DVCFileSystem

    command = ["git", "for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}"]
    (revision,) = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    with TemporaryDirectory() as folder:
        DVCFileSystem(str(root), rev=revision).get(REPORTS, f"{folder}/reports", recursive=True)
        yield Path(folder) / "reports"


def publish_report(folder: Path) -> None:
    """The report, if there is one, and the numbers of its summary as artifacts of this run."""
    if not (folder / "summary.json").exists():
        return
    from pipeline.reporting.sections import differences_table, results_table, texts

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    text = texts(summary["confidence"])
    for key, table in (("results", results_table(summary, text)), ("differences", differences_table(summary, text))):
        if table:
            rows = [dict(zip(table["headers"], row, strict=True)) for row in table["rows"]]
            create_table_artifact(rows, key=key, description=table["caption"])
    publish_page(folder / "report.md", "report")


def publish_page(path: Path, key: str) -> None:
    """A Markdown file with the images that it names, as one artifact."""

    def embedded(found: re.Match[str]) -> str:
        data = base64.b64encode((path.parent / found[2]).read_bytes()).decode("ascii")
        return f"{found[1]}(data:image/png;base64,{data})"

    page = re.sub(r"(!\[[^\]]*\])\(([^)]+\.png)\)", embedded, path.read_text(encoding="utf-8"))
    create_markdown_artifact(page, key=key)


@flow(name="study")
def study(
    path: str = "pipeline/studies/noise.yaml",
    minutes: float = 120.0,
    jobs: int = 2,
    tables: list[str] | None = None,
    cluster: str | None = None,
) -> State:
    """Go on with a study: its missing cells on Dask workers, then its tables and its page.

    Args:
        path: the study's YAML file.
        minutes: no cell starts after this time.
        jobs: workers of the local cluster, one cell each at a time.
        tables: names of the tables to fill; all by default.
        cluster: address of a Dask scheduler whose workers share this folder and run in it; by default a local cluster.
    """
    from prefect_dask import DaskTaskRunner

    from pipeline.study import report as study_report

    root = Path.cwd()
    runner = DaskTaskRunner(address=cluster) if cluster else DaskTaskRunner(cluster_kwargs=local_cluster(jobs))
    with take_turn(root, get_run_logger().info):
        failed = cells.with_options(task_runner=runner)(path, minutes, jobs, tables or [])
        study_report.write(Path(path))
        publish_page(study_report.REPORTS / f"{Path(path).stem}.md", f"study-{Path(path).stem.replace('_', '-')}")
    return Failed(message=f"{failed} cells failed") if failed else Completed(message="no cell failed")


def local_cluster(workers: int) -> dict[str, Any]:
    """Dask workers on this machine: processes of one thread each, reachable from nowhere else."""
    return {"n_workers": workers, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}


@flow(name="cells")
def cells(path: str, minutes: float, jobs: int, tables: list[str]) -> int:
    """The missing cells of a study; returns how many failed."""
    from pipeline.study.run import run

    return run(Path(path), jobs, minutes, tables, TaskPool())


class TaskPool(Executor):
    """Runs functions as Prefect tasks on the flow's task runner."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        name = " ".join(str(getattr(argument, "name", argument)) for argument in arguments[:1])
        inner = task(function, task_run_name=f"{function.__name__} {name}", cache_policy=NO_CACHE).submit(*arguments)
        outer: Future[Any] = Future()

        def finish(done: Any) -> None:
            try:
                outer.set_result(done.result())
            except BaseException as error:
                outer.set_exception(error)

        outer.set_running_or_notify_cancel()
        inner.add_done_callback(finish)
        return outer
