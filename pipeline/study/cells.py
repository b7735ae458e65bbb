"""Cells of a study: what they share, and one of them from start to line."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline import graph, own_code
from pipeline.files import LONE_SURROGATES, read_json, read_jsonl, write_json
from pipeline.params import Params
from pipeline.study.file import UNDECIDED, Cell, digest
from pipeline.tracking.file import Record

WORK = Path("data/study")
METRICS = "metrics.json"  # in a shared stage's folder
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


def run_stage(stage: str, params: Params, root: str) -> None:
    """Run one shared stage in its own folder, in a process of its own."""
    folder = Path(root) / folder_of(stage, params)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _link([Path(root) / folder_of(other, params) for other in shared()[stage]], partial)
    _link_own_code(params, Path(root), partial)
    record = Record(partial / "record.jsonl", {})  # of no interest to anyone
    metrics = _within(partial, lambda: import_module(f"pipeline.stages.{stage}").run(params, record=record))
    write_json(partial / METRICS, metrics)
    partial.replace(folder)


def run_cell(cell: Cell, root: str) -> dict[str, Any]:
    """Train and evaluate one cell in a folder of its own; returns its line."""
    from pipeline.stages import critic, evaluate, train
    from pipeline.tracking import record as tracking

    start, folder = time.perf_counter(), Path(root) / folder_of_cell(cell)
    arguments = (cell.params, cell.method, cell.seed)
    made = {stage: read_json(Path(root) / folder_of(stage, cell.params) / METRICS) for stage in ("label", "sft", "reward")}
    line: dict[str, Any] = {"kind": cell.kind, "method": cell.method, "seed": cell.seed, "stages": made}
    line["commit"] = tracking.code_version()
    if own := own_code.digest(cell.params):
        line["own_code"] = own
    line["params"] = cell.params.model_dump(exclude=UNDECIDED)
    if made["sft"]["accuracy"] < cell.cold_start:
        return line | {"accuracy_init": made["sft"]["accuracy"]}
    _link([Path(root) / folder_of(stage, cell.params) for stage in read_by_cells()], folder)
    _link_own_code(cell.params, Path(root), folder)
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
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link_file(file, target)


def _link_own_code(params: Params, root: Path, folder: Path) -> None:
    """By the same paths as from the project's folder."""
    for file in own_code.files(params):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        _link_file(root / file, folder / file)


def _link_file(source: Path, target: Path) -> None:
    if not target.exists():
        target.unlink(missing_ok=True)  # a link that leads nowhere
        target.symlink_to(os.path.relpath(source.resolve(), target.parent))


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
