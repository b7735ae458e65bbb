"""What every stage shares: command line, parameters, quiet dependencies, timing, records and errors."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import preflight
from vrpo.config import OutOfReach, Params, UserError, load_params

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


RETRYABLE = 75  # exit code of a stage for which trying again may help (EX_TEMPFAIL of sysexits.h)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a kill or a full disk leaves the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused because it is not JSON and always a mistake here."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Raises:
        UserError: the file is missing or empty, or a line is not a JSON object (file and line are named).
    """
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: not valid JSON ({error}); fix or remove the line") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                rows.append(row)
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a UTF-8 text file with one JSON object a line ({error})") from None
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `dvc repro`, or correct the path in params.yaml") from None
    if not rows:
        raise UserError(f"{path}: holds no rows; an empty split cannot be used")
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(name: str, run: Callable[..., dict[str, Any]], description: str | None, *, cell: bool = False) -> None:
    """Run a stage from the command line.

    `run(params)` (or `run(params, method, seed)` for the cells of the matrix) does the work and returns its metrics,
    which go to `data/metrics/<name>.json` and to the records that MLflow mirrors. A `UserError` ends the process with
    exit code 1 and its message alone; a connection that broke, timed out or was never made with exit code 75, which `pipeline.flow` tries again.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m pipeline.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", type=Path, help="parameter file (default: %(default)s)")
    if cell:
        parser.add_argument("--method", required=True, help="one of `methods` in params.yaml")
        parser.add_argument("--seed", required=True, type=int)
    options = parser.parse_args()
    for key, value in TELEMETRY_OFF.items():
        os.environ.setdefault(key, value)
    try:
        params = load_params(options.params)
        preflight.check(params)
        preflight.warn_of_masked(options.params, {name, "runtime", "generation"})
        for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(key, str(params.runtime.threads))
        arguments = (options.method, options.seed) if cell else ()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve a second training process
        _run_recorded(name, run, params, arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(RETRYABLE if isinstance(error, OutOfReach) else 1) from None
    except (ConnectionError, TimeoutError) as error:
        print(f"error: {error or type(error).__name__}; nothing finished was changed, `dvc repro` tries again", file=sys.stderr)
        raise SystemExit(RETRYABLE) from None
    except OSError as error:
        if error.errno is None:
            raise
        print(f"error: {error}; nothing finished was changed, free the resource and run `dvc repro` again", file=sys.stderr)
        raise SystemExit(1) from None


def _run_recorded(name: str, run: Callable[..., dict[str, Any]], params: Params, arguments: tuple[Any, ...]) -> None:
    from pipeline import tracking

    label = "-".join([name, *map(str, arguments)])
    start = time.perf_counter()
    with tracking.record(label, stage=name, params=params, arguments=arguments) as record:
        metrics = run(params, *arguments, record=record)
        metrics = {**metrics, "seconds": round(time.perf_counter() - start, 2), "peak_memory_mb": round(peak_memory_mb(), 1)}
        record.metrics(metrics)
    write_json(Path("data/metrics") / f"{label}.json", metrics)
