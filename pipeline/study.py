"""A study: a grid of runs under one budget, from a YAML file, through the same stages as `dvc repro`.

    python -m pipeline.study pipeline/studies/noise.yaml --jobs 2 --minutes 100

Each cell is a set of parameters, a method and a seed; `domain` in the file, where given, stands in for that of params.yaml. What cells
have in common (problems, base model, labels, cold start) is made once; finished cells are lines of data/reports/study/<name>.jsonl and
never run again, so that a study can be stopped at any time and goes on later. Each line names the commit of the code that made it; what
cells have in common is made anew when the code that makes it changes. The tables are written anew at the end (see `pipeline.study_report`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.arguments import above_zero, input_file, new_parser, whole
from pipeline.leash import interrupt_on_signals, workers
from pipeline.preflight import check_machine
from pipeline.records import Record
from pipeline.stage import LONE_SURROGATES, TELEMETRY_OFF, append_line, read_json, read_jsonl, speak_safely, write_json
from pipeline.study_file import UNDECIDED, Cell, cell_key, digest, load_study
from vrpo.config import Params, UserError
from vrpo.files import hold

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
    """The lines of a study's finished cells by key. Parameters that did not exist when a cell ran count with their defaults.

    Lines with parameters that do not exist any more, or not with such values, are of older code: they are told of and left where they are.
    """
    file, found, older = REPORTS / f"{path.stem}.jsonl", {}, []
    for number, line in enumerate(read_jsonl(file) if file.exists() else [], 1):
        try:
            found[cell_key(line["kind"], line["method"], line["seed"], Params.model_validate(line["params"]))] = line
        except (ValidationError, KeyError) as error:
            older.append((number, str(error).splitlines()[1] if isinstance(error, ValidationError) else f"no {error}"))
    if older:
        first, reason = older[0]
        print(
            f"{file}: {len(older)} of {len(found) + len(older)} lines are of older code and do not count, e.g. {first}: {reason}",
            file=sys.stderr,
        )
    return found


def folder_of(stage: str, params: Params) -> Path:
    """Where a stage's outputs lie; cells with the same parameters and the same code up to there share them."""
    sections, upstream = INPUTS[stage]
    values = params.model_dump(include=set(sections))
    return WORK / f"{stage}-{digest([values, stage_code()[stage], *(folder_of(other, params).name for other in upstream)])}"


def folder_of_cell(cell: Cell) -> Path:
    """Where a cell's files lie while it runs, a checkpoint that was left by a kill among them."""
    made = [folder_of(stage, cell.params).name for stage in CELL]
    return WORK / f"cell-{digest([cell.key, made, stage_code()['train'], stage_code()['evaluate']])}"


@cache
def stage_code() -> dict[str, str]:
    """A digest of each stage's modules, which dvc.yaml names, as they were when this process asked first."""
    root = Path(__file__).parents[1]
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    files = {name: [file for file in stage["deps"] if file.endswith(".py")] for name, stage in stages.items()}
    return {name: digest([[file, sha256((root / file).read_bytes()).hexdigest()] for file in group]) for name, group in files.items()}


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

    start, folder = time.perf_counter(), Path(root) / folder_of_cell(cell)
    arguments = (cell.params, cell.method, cell.seed)
    made = {stage: read_json(Path(root) / folder_of(stage, cell.params) / METRICS) for stage in ("label", "sft", "reward")}
    line: dict[str, Any] = {"kind": cell.kind, "method": cell.method, "seed": cell.seed, "stages": made}
    line["commit"] = tracking.code_version()
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
    """A folder with everything that the sources hold below data/: directories of their own, files as links, which a moved checkout keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    for source in sources:
        for file in (source / "data").rglob("*"):
            target = folder / file.relative_to(source)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # a link that leads nowhere
                target.symlink_to(os.path.relpath(file.resolve(), target.parent))


def _within(folder: Path, work: Callable[[], Any]) -> Any:
    """Call `work` with `folder` as the working directory and its output in a file there."""
    from contextlib import redirect_stderr, redirect_stdout

    home = Path.cwd()
    os.chdir(folder)
    try:
        with Path("output.txt").open("a", encoding="utf-8", errors=LONE_SURROGATES) as file, redirect_stdout(file), redirect_stderr(file):
            return work()
    except Exception as error:
        raise RuntimeError(f"{folder.name}: {type(error).__name__}: {error}") from None
    finally:
        os.chdir(home)


def run(path: Path, jobs: int, minutes: float, tables: list[str], pool: Any = None) -> int:
    """Run what is missing, two phases: shared stages, then cells; returns the number of cells that failed.

    `pool` is an Executor to run them on, `jobs` at a time; by default processes here. Studies of one checkout, whose cells share folders,
    take turns.
    """
    study, cells = load_study(path)
    if unknown := [name for name in tables if name not in study.tables]:
        raise UserError(f"--table {unknown[0]}: not in {path}; use {', '.join(study.tables)}")

    def wait(holder: str) -> None:
        print(f"waiting for the study of process {holder}, which works in this checkout", file=sys.stderr)

    with hold(WORK / ".lock", wait):
        return _run_missing(path, cells, jobs, minutes, tables, pool)


def _run_missing(path: Path, cells: list[Cell], jobs: int, minutes: float, tables: list[str], pool: Any) -> int:
    from concurrent.futures import FIRST_COMPLETED, wait

    from tqdm import tqdm

    done = finished(path)
    missing = list({cell.key: cell for cell in cells if cell.key not in done and (not tables or cell.table in tables)}.values())
    for runtime in {cell.params.runtime for cell in missing}:
        check_machine(runtime)
    deadline, root, failed = time.monotonic() + 60 * minutes, str(Path.cwd()), 0
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
    with pool or workers(jobs) as pool, tqdm(total=len(missing), desc=path.stem, unit="cell") as bar:
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
                    append_line(REPORTS / f"{path.stem}.jsonl", json.dumps(future.result()))
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
    speak_safely()
    parser = new_parser("pipeline.study", __doc__)
    parser.add_argument("study", type=input_file, help="YAML file, see pipeline/studies/")
    parser.add_argument("--jobs", type=whole(1), default=2, help="cells at a time, one thread each (default: %(default)s)")
    parser.add_argument("--minutes", type=above_zero, default=120, help="start no cell after this time (default: %(default)s)")
    parser.add_argument("--table", action="append", default=[], help="only this table; may be given several times")
    parser.add_argument("--report", action="store_true", help="run nothing, write the tables from what is there")
    options = parser.parse_args()
    interrupt_on_signals()
    if options.report and options.table:
        parser.error("--table: has no use with --report, which writes every table; leave one of them out")
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | TELEMETRY_OFF
    from pipeline import study_report

    try:
        failed = 0 if options.report else run(options.study, options.jobs, options.minutes, options.table)
        study_report.write(options.study)
    except (UserError, OSError, BrokenExecutor) as error:  # the last: a worker was killed, as by a lack of memory
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: finished cells are kept, the others go on with the same command", file=sys.stderr)
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
