"""The parameters that hold: the sections of params.yaml, the chosen domain's values over them, and the chosen profile's over both.

Every value that a stage can read stands in `data/params.yaml`, defaults included, and DVC compares these: a comment, a profile that is not
chosen or a value that comes to the same as before reruns nothing but this stage. `data/own/` has a file for the domain and for the kind of
reward; where they are a user's own code it leads to that code, so that an edit reruns what uses it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from pipeline import own_code, preflight
from pipeline.files import write_atomically
from pipeline.params import Params
from pipeline.stages.stage import main
from pipeline.workspace import HERE, Workspace
from vrpo.tasks.base import PROCEDURAL

NO_CODE = "no code of one's own\n"
HEAD = (
    "# Written by `python -m pipeline.stages.params` from params.yaml: every value, domain and profile applied. Edit params.yaml instead.\n"
)


def run(params: Params, workspace: Workspace = HERE) -> None:
    """Write `data/params.yaml`, and in `data/own/` what DVC watches."""
    if (workspace.root / "params.yaml").exists():
        preflight.note_changes(workspace.root / "params.yaml")
    if own := own_material(params):
        acting = "; ".join(channel.describe() for channel in params.noise)
        print(f"warning: noise acts on {own} too ({acting}); set noise: [] unless that is meant", file=sys.stderr)
    values = params.model_dump(mode="json") | {"profiles": {params.profile: {}}}  # there must be one of the profile's name
    write_atomically(workspace.params, HEAD + yaml.safe_dump(values, sort_keys=False, width=140))
    for name, file in watched(params).items():
        watch(workspace.own / name, file)


def own_material(params: Params) -> str:
    """What is a user's own of that which noise acts on, as parameter = value; empty where nothing is, or there is no noise."""
    own = {"reward.function": params.reward.function if params.reward.kind == "function" else None}
    own |= {"prepare.dataset": params.prepare.dataset if params.prepare.dataset != PROCEDURAL else None}
    own |= {"domain": params.domain if ":" in params.domain else None}
    return ", ".join(f"{key} = {value}" for key, value in own.items() if value) if params.noise else ""


def watched(params: Params) -> dict[str, Path | None]:
    """Files of a user's own code by what names them in params.yaml, which is part of dvc.yaml's paths; None: ours."""
    specs = own_code.named(params)
    own = {"domain": params.domain, "reward.function": params.reward.kind}
    return {name: own_code.file_of(specs[parameter]) if parameter in specs else None for parameter, name in own.items()}


def watch(link: Path, file: Path | None) -> None:
    """Let `link` lead to a file, or be one that says that there is none: DVC warns of empty ones."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if file is None:
        link.write_text(NO_CODE, encoding="utf-8")
    elif not link.is_symlink() or link.resolve() != file.resolve():
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(file.resolve(), link.parent.resolve()))


if __name__ == "__main__":
    main("params", run, __doc__, recorded=False)
