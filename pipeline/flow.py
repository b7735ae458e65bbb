"""The DVC pipeline as a Prefect flow: python -m pipeline.flow [--jobs N] [-S section.key=value ...].

One task per DVC stage, in the order of DVC's own graph (see `pipeline.orchestration.flows`). With -S it runs as an experiment beside the checkout
(`dvc exp show`). Prefect adds parallel stages, streamed logs and a history (in .prefect/). It needs no server: without PREFECT_API_URL a
temporary one runs on the loopback interface. Exit code 1 if a stage failed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from pipeline.arguments import new_parser, setting
from pipeline.environment import prefect_environment
from pipeline.leash import interrupt_on_signals
from pipeline.overlays import overlay
from pipeline.params import load_params, resolve_params
from vrpo.console.arguments import whole
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError


def check_settings(path: Path, settings: list[str]) -> None:
    """Refuse parameters, `section.key=value` laid over the file's, before anything starts.

    Raises:
        UserError: the file or a setting is wrong; what and where is named.
    """
    load_params(path)
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    for text in settings:
        key, _, value = text.partition("=")
        try:
            change = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"-S {text}: {value!r} is no value; quote it as in YAML") from None
        for part in reversed(key.split(".")):
            change = {part: change}
        raw = overlay(raw, change)
    resolve_params(raw, "-S")


def main() -> None:
    speak_safely()
    parser = new_parser("pipeline.flow", __doc__)
    parser.add_argument("--jobs", type=whole(1), default=2, help="stages that run at the same time (default: %(default)s)")
    parser.add_argument(
        "-S", dest="overrides", action="append", type=setting, metavar="KEY=VALUE", help="another parameter; may be repeated"
    )
    options = parser.parse_args()
    interrupt_on_signals()  # a stopped flow stops its stages
    root = Path.cwd()
    for key, value in prefect_environment(root).items():
        os.environ.setdefault(key, value)
    try:
        if not (root / "dvc.yaml").exists():
            raise UserError(f"{root / 'dvc.yaml'}: not found; run from the project's folder")
        if (root / "params.yaml").is_file():
            check_settings(root / "params.yaml", options.overrides or [])
        from pipeline.orchestration.flows import StagesFailed, reproduce

        try:
            outcome = reproduce(overrides=options.overrides, jobs=options.jobs, return_state=True).result()
        except StagesFailed as error:
            outcome = error.outcome
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped: the running stages were ended; `python -m pipeline.flow` goes on where they were", file=sys.stderr)
        raise SystemExit(130) from None
    width = max(map(len, ["stage", *outcome]))
    print(f"\n{'stage':{width}}  state     seconds")
    for name, stage in outcome.items():
        print(f"{name:{width}}  {stage.state:8}  {stage.seconds:7.1f}")
    raise SystemExit(any(stage.state == "Failed" for stage in outcome.values()))


if __name__ == "__main__":
    main()
