"""Cells of a study: what they share, and one of them from start to line."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline import graph, own_code
from pipeline.files import LONE_SURROGATES, read_json, read_jsonl, write_json
from pipeline.params import Params
from pipeline.reporting.runs import phases_of
from pipeline.study.file import UNDECIDED, Cell, digest
from pipeline.tracking.file import Record
from pipeline.workspace import Workspace

WORK = Path("data/study")
METRICS = "metrics.json"  # in a shared stage's folder
COURSE = (
    "rollouts",
    "validation/accuracy",
    "reward/observed",
    "reward/clean",
    "advantage/variance",
    "advantage/noise_variance",
    "length/mean",
)
COURSE += ("policy/entropy", "critic/gain", "critic/skill", "critic/evidence", "critic/noise", "critic/ev_observed", "critic/ev_clean")
ALONE = {"params", "validate", "report"}  # which a study does by itself: parameters come from its file, the report is its own


def shared() -> dict[str, tuple[str, ...]]:
    """Stages that cells share, in an order in which they can run, and of each the shared ones that it reads."""
    names = [name for name, stage in graph.stages().items() if not stage.matrix and name not in ALONE]
    return {name: tuple(other for other in graph.stages()[name].upstream if other in names) for name in names}


def read_by_cells() -> list[str]:
    """Shared stages whose outputs training and evaluation read."""
    return [name for name in shared() if any(name in graph.stages()[stage].upstream for stage in ("train", "evaluate"))]


def folder_of(stage: str, params: Params) -> Path:
    """Where a stage's outputs lie; cells with the same parameters and the same code up to there share them."""
    values = [params.model_dump(include=set(graph.stages()[stage].sections)), own_code.digest(params)]
    return WORK / f"{stage}-{digest([values, graph.code_digest(stage), *(folder_of(other, params).name for other in shared()[stage])])}"


def folder_of_cell(cell: Cell) -> Path:
    """Where a cell's files lie while it runs, a checkpoint that was left by a kill among them."""
    made = [folder_of(stage, cell.params).name for stage in read_by_cells()]
    return WORK / f"cell-{digest([cell.key, made, graph.code_digest('train'), graph.code_digest('evaluate')])}"


def workspace(folder: Path, read: Iterable[str], params: Params) -> Workspace:
    """`folder`, but what the stages `read` made is read where it lies."""
    made = {path: folder_of(stage, params) for stage in read for path in graph.stages()[stage].made}
    places = {place.name: place.default.as_posix() for place in fields(Workspace)}
    return Workspace(folder, **{name: made[path] / path for name, path in places.items() if path in made})


def run_stage(stage: str, params: Params) -> None:
    """Run one shared stage in its own folder, in a process of its own."""
    folder = folder_of(stage, params)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    record = Record(partial / "record.jsonl", {})  # of no interest to anyone
    with _output_in(partial):
        run = import_module(f"pipeline.stages.{stage}").run
        write_json(partial / METRICS, run(params, record=record, workspace=workspace(partial, shared()[stage], params)))
    partial.replace(folder)


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and evaluate one cell in a folder of its own; returns its line."""
    from pipeline.stages import critic, evaluate, train
    from pipeline.stages.stage import peak_memory_mb, without_costs
    from pipeline.tracking import record as tracking

    start, folder = time.perf_counter(), folder_of_cell(cell)
    made = {stage: read_json(folder_of(stage, cell.params) / METRICS) for stage in ("label", "sft", "reward")}
    line: dict[str, Any] = {"kind": cell.kind, "method": cell.method, "seed": cell.seed, "stages": made}
    line["commit"] = tracking.code_version()
    if own := own_code.digest(cell.params):
        line["own_code"] = own
    line["params"] = cell.params.model_dump(exclude=UNDECIDED)
    if made["sft"]["accuracy"] < cell.cold_start:
        return line | {"accuracy_init": made["sft"]["accuracy"]}
    place = workspace(folder, read_by_cells(), cell.params)
    record = CellRecord(tracking.FOLDER / cell.study / f"{cell.key}.jsonl", _start_event(cell))
    arguments, name = (cell.params, cell.method, cell.seed, record, place), f"{cell.method}-{cell.seed}"
    with _output_in(folder):
        if cell.kind == "critic":
            line |= critic.run(*arguments)
        else:
            trained, tested = train.run(*arguments), evaluate.run(*arguments)
            record.metrics({"test": without_costs(tested)})
            evaluation = read_json(place.evaluations / f"{name}.json")
            line |= {key: value for key, value in evaluation.items() if key not in ("method", "seed", "domain")}
            line |= {"seconds": phases_of(trained) | phases_of(tested), "peak_memory_mb": round(peak_memory_mb(), 1)}
            line["log"] = _columns(read_jsonl(place.runs / name / "log.jsonl"))
    record.end("FINISHED")
    shutil.rmtree(folder)
    return line | {"cell_seconds": round(time.perf_counter() - start, 1)}


class CellRecord(Record):
    """A record without models: a cell's vanish with its folder."""

    def model(self, path: str | Path, kind: str, metrics: dict[str, Any]) -> None:
        """Leave it out."""


def _start_event(cell: Cell) -> dict[str, Any]:
    from pipeline.tracking.record import start_event

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
    names = [name for name in COURSE if any(name in row for row in log)]
    return {name: [None if (value := row.get(name)) is None else float(f"{value:.4g}") for row in log] for name in names}


@contextmanager
def _output_in(folder: Path) -> Iterator[None]:
    """What is printed goes to a file in `folder`, and errors name it."""
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.txt"
    try:
        with output.open("a", encoding="utf-8", errors=LONE_SURROGATES) as file, redirect_stdout(file), redirect_stderr(file):
            yield
    except Exception as error:
        raise RuntimeError(f"{folder.name}: {type(error).__name__}: {error}") from None
