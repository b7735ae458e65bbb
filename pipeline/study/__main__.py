"""A study: a grid of runs under one budget, from a YAML file, through the same stages as `dvc repro`.

    python -m pipeline.study pipeline/studies/noise.yaml --jobs 2 --minutes 100

Each cell is a set of parameters, a method and a seed; `domain` in the file, where given, stands in for that of params.yaml. What cells
have in common (problems, base model, labels, cold start) is made once; finished cells are lines of data/reports/study/<name>.jsonl and
never run again, so that a study can be stopped at any time and goes on later. Each line names the commit of the code that made it; what
cells have in common is made anew when the code that makes it changes. The tables are written anew at the end (see `pipeline.study.report`).
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import BrokenExecutor

from pipeline.arguments import new_parser
from pipeline.environment import TELEMETRY_OFF
from pipeline.leash import interrupt_on_signals
from pipeline.study.run import run
from vrpo.console.arguments import above_zero, input_file, whole
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError


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
    from pipeline.study import report as study_report

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
