"""What every stage shares: command line, parameters, quiet dependencies, timing, records and errors."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

from pipeline import preflight
from pipeline.arguments import new_parser
from pipeline.environment import TELEMETRY_OFF
from pipeline.files import not_found, write_json
from pipeline.params import Params, load_params
from pipeline.workspace import HERE
from vrpo.config import Method
from vrpo.console.arguments import input_file, one_of, whole
from vrpo.console.environment import speak_safely
from vrpo.errors import OutOfReach, UserError

EXHAUSTED = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
RETRYABLE = 75  # exit code of a stage for which trying again may help (EX_TEMPFAIL of sysexits.h)


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(name: str, run: Callable[..., dict[str, Any]], description: str | None, *, cell: bool = False, recorded: bool = True) -> None:
    """Run a stage from the command line.

    `run(params)` (or `run(params, method, seed)` for the cells of the matrix) does the work and returns its metrics,
    which go to `data/metrics/<name>.json` and, where it is `recorded`, to the records that MLflow mirrors. A `UserError` ends the process with
    exit code 1 and its message alone; a connection that broke, timed out or was never made with exit code 75, which `pipeline.flow` tries again.
    """
    speak_safely()
    parser = new_parser(f"pipeline.stages.{name}", description)
    parser.add_argument("--params", default="params.yaml", type=input_file, help="parameter file (default: %(default)s)")
    if cell:
        parser.add_argument("--method", required=True, type=one_of(get_args(Method)), help="as in `methods` of params.yaml")
        parser.add_argument("--seed", required=True, type=whole(0), help="as in `seeds` of params.yaml")
    options = parser.parse_args()
    for key, value in TELEMETRY_OFF.items():
        os.environ.setdefault(key, value)
    if not sys.stderr.isatty():  # a bar that cannot move is a page of lines
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        params = load_params(options.params)
        preflight.check(params)
        preflight.warn_of_masked(options.params, {name, "runtime", "generation"} if recorded else None)
        for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(key, str(params.runtime.threads))
        arguments = (options.method, options.seed) if cell else ()
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve a second training process
        _run_recorded(name, run, params, arguments) if recorded else run(params)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(RETRYABLE if isinstance(error, OutOfReach) else 1) from None
    except (ConnectionError, TimeoutError) as error:
        print(f"error: {error or type(error).__name__}; nothing finished was changed, `dvc repro` tries again", file=sys.stderr)
        raise SystemExit(RETRYABLE) from None
    except FileNotFoundError as error:
        print(f"error: {not_found(error.filename)}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno is None:
            raise
        cure = "free the resource" if error.errno in EXHAUSTED else "correct the path or its permissions"
        print(f"error: {error}; nothing finished was changed, {cure} and run `dvc repro` again", file=sys.stderr)
        raise SystemExit(1) from None


def _run_recorded(name: str, run: Callable[..., dict[str, Any]], params: Params, arguments: tuple[Any, ...]) -> None:
    from pipeline.tracking import record as tracking

    label = "-".join([name, *map(str, arguments)])
    start = time.perf_counter()
    with tracking.record(label, stage=name, params=params, arguments=arguments) as record:
        metrics = run(params, *arguments, record=record)
        metrics = {**metrics, "seconds": round(time.perf_counter() - start, 2), "peak_memory_mb": round(peak_memory_mb(), 1)}
        record.metrics(metrics)
    write_json(HERE.metrics / f"{label}.json", metrics)
