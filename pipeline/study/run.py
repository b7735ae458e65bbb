"""Run what a study misses: shared stages first, then cells, some at a time."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.files import append_line
from pipeline.leash import workers
from pipeline.preflight import check_own_code
from pipeline.study.cells import WORK, folder_of, read_by_cells, run_cell, run_stage, shared
from pipeline.study.file import Cell, Study, load_study
from pipeline.study.results import REPORTS, finished
from pipeline.tracking import send
from vrpo.console.machine import check_machine
from vrpo.errors import UserError
from vrpo.files import hold


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
        return _run_missing(path, study, cells, jobs, minutes, tables, pool)


def _run_missing(path: Path, study: Study, cells: list[Cell], jobs: int, minutes: float, tables: list[str], pool: Any) -> int:
    from concurrent.futures import FIRST_COMPLETED, wait

    from tqdm import tqdm

    done = finished(path, study.cold_start)
    missing = list({cell.key: cell for cell in cells if cell.key not in done and (not tables or cell.table in tables)}.values())
    for runtime in {cell.params.runtime for cell in missing}:
        check_machine(runtime)
    for cell in missing:
        check_own_code(cell.params)
    deadline, failed = time.monotonic() + 60 * minutes, 0
    waiting: list[tuple[set[Path], Any, tuple[Any, ...], Path | None]] = []  # what must be there, function, arguments, what it makes
    planned: set[Path] = set()
    for cell in missing:
        for stage, upstream in shared().items():
            made = folder_of(stage, cell.params)
            if made not in planned and not made.exists():
                planned.add(made)
                waiting.append(({folder_of(other, cell.params) for other in upstream}, run_stage, (stage, cell.params), made))
        waiting.append(({folder_of(stage, cell.params) for stage in read_by_cells()}, run_cell, (cell,), None))
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
    send.sync_or_warn()
    return failed
