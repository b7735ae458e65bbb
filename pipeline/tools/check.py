"""Check a parameter file before anything runs: every wrong key or value is named, and exit code 1 says so.

Values that differ from the committed file's and change nothing are named too."""

from __future__ import annotations

import sys

from pipeline import preflight
from pipeline.arguments import new_parser
from pipeline.params import load_params
from vrpo.console.arguments import input_file
from vrpo.errors import UserError


def main() -> None:
    parser = new_parser("pipeline.tools.check", __doc__)
    parser.add_argument("--params", default="params.yaml", type=input_file, help="parameter file (default: %(default)s)")
    path = parser.parse_args().params
    try:
        preflight.check(load_params(path))
        preflight.warn_of_masked(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
