"""Records of what the stages did, mirrored to MLflow: python -m pipeline.tracking {init,sync}.

Every stage appends its parameters, metrics, artifacts and models to `data/tracking/<label>.jsonl` as they happen. These
files are the source of truth (those of experiments and studies lie in folders beside them). While a stage runs, a child process follows its file and brings MLflow up to date; it shares
nothing with the stage but the file, so a tracking server that is down, slow or broken costs the stage one warning line.
Whatever MLflow missed, `sync` sends later; sending twice changes nothing.

Environment: MLFLOW_TRACKING_URI chooses the store (default: sqlite:///mlflow.db in the project's folder; "off": records
only). PIPELINE_RUN, where set, becomes a tag that groups the runs of one pipeline run.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.arguments import new_parser
from pipeline.tracking.mirror import init_database, tracking_uri
from pipeline.tracking.send import follow, one_line, public, sync
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError


def main() -> None:
    speak_safely()
    parser = new_parser("pipeline.tracking", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{init,sync}")
    commands.add_parser("init", help="create or upgrade the local database; does nothing when it is current")
    commands.add_parser("sync", help="send to MLflow whatever it has not yet received; may be repeated at will")
    child = commands.add_parser("follow")  # started by `record`, not for people
    child.add_argument("path", type=Path)
    child.add_argument("parent", type=int)
    options = parser.parse_args()
    if options.command == "init":
        try:
            init_database(tracking_uri())
        except Exception as error:  # what a database can raise is MLflow's affair
            print(
                f"error: MLflow ({public(tracking_uri())}) cannot be prepared: {one_line(error)}; free the file, or move it away",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
    elif options.command == "sync":
        try:
            print(f"sync: {sync()} record files are in MLflow ({public(tracking_uri())})")
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
    elif error := follow(options.path, options.parent):
        print(error)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
