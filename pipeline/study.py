"""A study: a grid of runs under one budget, from a YAML file, through the same stages as `dvc repro`.

    python -m pipeline.study pipeline/studies/noise.yaml --jobs 2 --minutes 100

Each cell is a set of parameters, a method and a seed; `domain` in the file, where given, stands in for that of params.yaml. What cells
have in common (problems, base model, labels, cold start) is made once; finished cells are lines of data/reports/study/<name>.jsonl and
never run again, so that a study can be stopped at any time and goes on later. The tables are written anew at the end (see
`pipeline.study_report`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.preflight import check_machine
from pipeline.records import Record
from pipeline.runs import read_json
from pipeline.stage import TELEMETRY_OFF, read_jsonl, write_json
from pipeline.study_file import UNDECIDED, Cell, cell_key, digest, load_study
from vrpo.config import Params, UserError

REPORTS, WORK = Path("data/reports/study"), Path("data/study")
METRICS = "metrics.json"  # in a shared stage's folder
INPUTS = {  # of each stage: its sections of the parameters and the stages it reads
    "prepare": (("domain", "prepare"), ()),
    "base": (("domain", "runtime", "prepare", "base"), ("prepare",)),
    "label": (("domain", "runtime", "generation", "label"), ("prepare", "base")),
    "sft": (("domain", "runtime", "generation", "evaluate", "sft"), ("prepare", "base")),
    "reward": (("domain", "runtime", "generation", "reward"), ("prepare", "sft")),
}
CELL = ("prepare", "label", "sft", "reward")  # what a cell reads


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a study's finished cells by key. Parameters that did not exist when a cell ran count with their defaults."""
    file = REPORTS / f"{path.stem}.jsonl"
    lines = read_jsonl(file) if file.exists() else []
    return {cell_key(line["kind"], line["method"], line["seed"], Params.model_validate(line["params"])): line for line in lines}


def folder_of(stage: str, params: Params) -> Path:
    """Where a stage's outputs lie; cells with the same parameters up to there share them."""
    sections, upstream = INPUTS[stage]
    values = params.model_dump(include=set(sections))
    return WORK / f"{stage}-{digest([values, *(folder_of(other, params).name for other in upstream)])}"


def run_stage(stage: str, params: Params, root: str) -> None:
    """Run one shared stage in its own folder, in a process of its own."""
    folder = Path(root) / folder_of(stage, params)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _link([Path(root) / folder_of(other, params) for other in INPUTS[stage][1]], partial)
    record = Record(partial / "record.jsonl", {})  # of no interest to anyone
    metrics = _within(partial, lambda: import_module(f"pipeline.{stage}").run(params, record=record))
    write_json(partial / METRICS, metrics)
    partial.replace(folder)


def run_cell(cell: Cell, root: str) -> dict[str, Any]:
    """Train and evaluate one cell in a folder of its own; returns its line."""
    from pipeline import critic, evaluate, tracking, train

    start, folder = time.perf_counter(), Path(root) / WORK / f"cell-{cell.key}"
    arguments = (cell.params, cell.method, cell.seed)
    made = {stage: read_json(Path(root) / folder_of(stage, cell.params) / METRICS) for stage in ("label", "sft", "reward")}
    line: dict[str, Any] = {"kind": cell.kind, "method": cell.method, "seed": cell.seed, "stages": made}
    line["params"] = cell.params.model_dump(exclude=UNDECIDED)
    if made["sft"]["accuracy"] < cell.cold_start:
        return line | {"accuracy_init": made["sft"]["accuracy"]}
    _link([Path(root) / folder_of(stage, cell.params) for stage in CELL], folder)
    record = CellRecord(Path(root) / tracking.FOLDER / cell.study / f"{cell.key}.jsonl", _start_event(cell))
    if cell.kind == "critic":
        line |= _within(folder, lambda: critic.run(*arguments, record=record))
    else:
        _within(folder, lambda: train.run(*arguments, record=record))
        record.metrics({"test": _within(folder, lambda: evaluate.run(*arguments, record=record))})
        data, name = folder / "data", f"{cell.method}-{cell.seed}"
        evaluation = read_json(data / "evaluations" / f"{name}.json")
        line |= {key: value for key, value in evaluation.items() if key not in ("method", "seed", "domain")}
        line["log"] = _columns(read_jsonl(data / "runs" / name / "log.jsonl"))
    record.end("FINISHED")
    shutil.rmtree(folder)
    return line | {"cell_seconds": round(time.perf_counter() - start, 1)}


class CellRecord(Record):
    """A record without models: a cell's vanish with its folder."""

    def model(self, path: str | Path, kind: str, metrics: dict[str, Any]) -> None:
        """Leave it out."""


def _start_event(cell: Cell) -> dict[str, Any]:
    from pipeline.tracking import start_event

    event = start_event(
        f"{cell.method}-{cell.seed}",
        stage="train" if cell.kind == "run" else cell.kind,
        params=cell.params,
        arguments=(cell.method, cell.seed),
        study=cell.study,
        table=cell.table,
        **{f"axis_{axis}": value for axis, value in cell.axes.items()},
    )
    return event | {"name": cell.name}


def _columns(log: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """A log as one list a metric, four significant digits: what tables and figures need of it."""
    wanted = ("rollouts", "validation/", "reward/", "critic/", "advantage/", "length/mean", "policy/kl", "policy/entropy")
    names = dict.fromkeys(key for row in log for key in row if key.startswith(wanted))
    return {name: [None if (value := row.get(name)) is None else float(f"{value:.4g}") for row in log] for name in names}


def _link(sources: list[Path], folder: Path) -> None:
    """A folder with everything that the sources hold below data/: directories of their own, files as links."""
    for source in sources:
        for file in (source / "data").rglob("*"):
            target = folder / file.relative_to(source)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(file)
    folder.mkdir(parents=True, exist_ok=True)


def _within(folder: Path, work: Callable[[], Any]) -> Any:
    """Call `work` with `folder` as the working directory and its output in a file there."""
    from contextlib import redirect_stderr, redirect_stdout

    home = Path.cwd()
    os.chdir(folder)
    try:
        with Path("output.txt").open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            return work()
    except Exception as error:
        raise RuntimeError(f"{folder.name}: {type(error).__name__}: {error}") from None
    finally:
        os.chdir(home)


def run(path: Path, jobs: int, minutes: float, tables: list[str], pool: Any = None) -> int:
    """Run what is missing, two phases: shared stages, then cells; returns the number of cells that failed.

    `pool` is an Executor to run them on, `jobs` at a time; by default processes here.
    """
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    from tqdm import tqdm

    study, cells = load_study(path)
    if unknown := [name for name in tables if name not in study.tables]:
        raise UserError(f"--table {unknown[0]}: not in {path}; use {', '.join(study.tables)}")
    done = finished(path)
    missing = list({cell.key: cell for cell in cells if cell.key not in done and (not tables or cell.table in tables)}.values())
    for runtime in {cell.params.runtime for cell in missing}:
        check_machine(runtime)
    deadline, root, failed = time.monotonic() + 60 * minutes, str(Path.cwd()), 0
    REPORTS.mkdir(parents=True, exist_ok=True)
    waiting: list[tuple[set[Path], Any, tuple[Any, ...], Path | None]] = []  # what must be there, function, arguments, what it makes
    planned: set[Path] = set()
    for cell in missing:
        for stage in INPUTS:
            made = folder_of(stage, cell.params)
            if made not in planned and not made.exists():
                planned.add(made)
                waiting.append(({folder_of(other, cell.params) for other in INPUTS[stage][1]}, run_stage, (stage, cell.params, root), made))
        waiting.append(({folder_of(stage, cell.params) for stage in CELL}, run_cell, (cell, root), None))
    running: dict[Any, Path | None] = {}
    with pool or ProcessPoolExecutor(jobs, get_context("spawn")) as pool, tqdm(total=len(missing), desc=path.stem, unit="cell") as bar:
        while waiting or running:
            for task in waiting[:]:
                if len(running) < jobs and time.monotonic() < deadline and all(folder.exists() for folder in task[0]):
                    waiting.remove(task)
                    running[pool.submit(task[1], *task[2])] = task[3]
            if not running:  # out of time, or what is left needs a stage that failed
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                made = running.pop(future)
                if error := future.exception():
                    failed += 1
                    tqdm.write(f"failed: {error}", file=sys.stderr)
                elif made is None:
                    with (REPORTS / f"{path.stem}.jsonl").open("ab", buffering=0) as file:  # in one piece: a kill leaves no half line
                        file.write(f"{json.dumps(future.result())}\n".encode())
                    bar.update()
    _send_records()
    return failed


def _send_records() -> None:
    """Bring MLflow up to date with the cells, all at once: a mirror beside each would cost more than many a cell."""
    from pipeline import tracking

    try:
        if tracking.tracking_uri() != "off":
            tracking.sync()
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="YAML file, see pipeline/studies/")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, one thread each (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=120, help="start no cell after this time (default: %(default)s)")
    parser.add_argument("--table", action="append", default=[], help="only this table; may be given several times")
    parser.add_argument("--report", action="store_true", help="run nothing, write the tables from what is there")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | TELEMETRY_OFF
    from pipeline import study_report

    try:
        failed = 0 if options.report else run(options.study, options.jobs, options.minutes, options.table)
        study_report.write(options.study)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
