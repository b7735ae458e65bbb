"""Check a parameter file before anything runs: every wrong key or value is named, and exit code 1 says so."""

from __future__ import annotations

import argparse
import sys

from vrpo.config import UserError, load_params


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.check", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="parameter file (default: %(default)s)")
    try:
        load_params(parser.parse_args().params)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
