"""A study: a grid of runs under one budget, from a YAML file, through the same stages as `dvc repro`.

    python -m pipeline.study pipeline/studies/noise.yaml --jobs 2 --minutes 100

Each cell is a set of parameters, a method and a seed; `domain` in the file, where given, stands in for that of params.yaml. What cells
have in common (problems, base model, labels, cold start) is made once; finished cells are lines of data/reports/study/<name>.jsonl and
never run again, so that a study can be stopped at any time and goes on later. The tables are written anew at the end (see
`pipeline.study_report`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from pipeline.records import Record
from pipeline.runs import read_json
from pipeline.stage import TELEMETRY_OFF, read_jsonl, write_json
from vrpo.config import Params, UserError, load_params, overlay, resolve_params

REPORTS, WORK = Path("data/reports/study"), Path("data/study")
METRICS = "metrics.json"  # in a shared stage's folder
UNDECIDED = {"profile", "methods", "seeds", "report"}  # parameters that do not touch a cell's result
INPUTS = {  # of each stage: its sections of the parameters and the stages it reads
    "prepare": (("domain", "prepare"), ()),
    "base": (("domain", "runtime", "prepare", "base"), ("prepare",)),
    "label": (("domain", "runtime", "generation", "label"), ("prepare", "base")),
    "sft": (("domain", "runtime", "generation", "evaluate", "sft"), ("prepare", "base")),
    "reward": (("domain", "runtime", "generation", "reward"), ("prepare", "sft")),
}
CELL = ("prepare", "label", "sft", "reward")  # what a cell reads
SEEDED = ("base", "label", "sft", "reward")  # sections that get the cell's seed: each seed has its own models and its own noise


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        study: its file's name.
        table: name of the table that asked for it.
        axes: the value's name on each axis, method and noise among them.
        method, seed: as in params.yaml.
        params: everything else.
        kind: "run", trained and evaluated; "critic", only the value warm-up and its Monte-Carlo check.
        cold_start: accuracy that the cold start must have; a seed whose base model learned less says nothing about RL and is left out.
    """

    study: str
    table: str
    axes: dict[str, str]
    method: str
    seed: int
    params: Params
    kind: str
    cold_start: float

    @property
    def key(self) -> str:
        """Names the result after everything that decides it."""
        return _key(self.kind, self.method, self.seed, self.params)

    @property
    def name(self) -> str:
        """For people: the values on its axes and the seed."""
        return f"{', '.join(self.axes.values())}, seed {self.seed}"


def load_study(path: Path) -> tuple[dict[str, Any], list[Cell]]:
    """Read a study and expand its tables.

    Raises:
        UserError: a key is unknown or missing, or a cell's parameters are impossible; the cell is named.
    """
    try:
        study = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as a study ({error})") from None
    for name, table in study["tables"].items():
        if unknown := table.keys() - {"title", "axes", "seeds", "params", "kind", "pairs", "reference", "metrics"}:
            raise UserError(f"{path}: tables.{name}: unknown key {', '.join(sorted(unknown))}")
    cells = [cell for name, table in study["tables"].items() for cell in _expand(study, name, table, str(path))]
    return study, cells


def _expand(study: dict[str, Any], name: str, table: dict[str, Any], origin: str) -> Iterator[Cell]:
    common = load_params(domain=study.get("domain")).model_dump(exclude={"profile", "methods", "seeds"})
    common = overlay(overlay(common, study.get("params") or {}), table.get("params") or {})
    axes = table["axes"]
    for seed, *values in itertools.product(table["seeds"], *axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        raw, method = common, "ppo"
        for axis, value in chosen.items():
            changes = dict(axes[axis][value] or {})
            method = changes.pop("method", method)
            raw = overlay(raw, changes)
        for section in SEEDED:
            raw = overlay(raw, {section: {"seed": seed}})
        where = ", ".join(f"{axis} {value}" for axis, value in chosen.items())
        params = resolve_params(raw | {"methods": [method], "seeds": [seed]}, f"{origin}: tables.{name}: {where}")
        yield Cell(Path(origin).stem, name, chosen, method, seed, params, table.get("kind", "run"), study.get("cold_start", 0.0))


def _key(kind: str, method: str, seed: int, params: Params) -> str:
    return _digest([kind, method, seed, params.model_dump(exclude=UNDECIDED)])


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a study's finished cells by key. Parameters that did not exist when a cell ran count with their defaults."""
    file = REPORTS / f"{path.stem}.jsonl"
    lines = read_jsonl(file) if file.exists() else []
    return {_key(line["kind"], line["method"], line["seed"], Params.model_validate(line["params"])): line for line in lines}


def folder_of(stage: str, params: Params) -> Path:
    """Where a stage's outputs lie; cells with the same parameters up to there share them."""
    sections, upstream = INPUTS[stage]
    values = params.model_dump(include=set(sections))
    return WORK / f"{stage}-{_digest([values, *(folder_of(other, params).name for other in upstream)])}"


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

    _, cells = load_study(path)
    done = finished(path)
    missing = list({cell.key: cell for cell in cells if cell.key not in done and (not tables or cell.table in tables)}.values())
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
                    with (REPORTS / f"{path.stem}.jsonl").open("a", encoding="utf-8") as file:
                        file.write(json.dumps(future.result()) + "\n")
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
