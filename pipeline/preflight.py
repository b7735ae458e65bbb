"""What a parameter file says against this machine, against itself along the pipeline, and against the committed file; in a moment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline import own_code
from pipeline.overlays import Loader, read_yaml, with_settings
from pipeline.params import Params
from vrpo.console.machine import check_machine
from vrpo.errors import UserError

Key = tuple[str, ...]


def check(params: Params) -> None:
    """Stop what would fail after minutes of work.

    Raises:
        UserError: this machine lacks the device or the CPUs, own code is not there, or the cold start wants more problems than there will be.
    """
    check_machine(params.runtime)
    check_own_code(params)
    wanted, there = params.sft.demonstrations, params.prepare.train_size
    if wanted > there:
        raise UserError(
            f"sft.demonstrations = {wanted}: more than the training problems (prepare.train_size = {there}); lower it or raise that"
        )


def check_own_code(params: Params) -> None:
    """Make sure that files which parameters name are there and define what they are named for; none is run.

    Raises:
        UserError: names parameter, value and cure.
    """
    for parameter, spec in own_code.named(params).items():
        with own_code.naming(parameter, spec):
            own_code.check(spec, Path())


def masked_overrides(path: Path) -> Iterator[tuple[str, str]]:
    """Values that differ from the committed file's and change nothing, since the chosen domain or profile lies over them or another is chosen.

    Yields the value's section and a line that says so; nothing where there is no git or no committed file.
    """
    command = ["git", "show", f"HEAD:./{path.name}"]
    try:
        shown = subprocess.run(command, cwd=path.absolute().parent, capture_output=True, check=True).stdout
        committed, now = yaml.load(shown, Loader), read_yaml(path)
    except (OSError, subprocess.CalledProcessError, yaml.YAMLError):
        return
    committed, now = (values | {"domains": with_settings(values.get("domains") or {})} for values in (committed, now))
    chosen = {"domains": now.get("domain", "math"), "profiles": now.get("profile", "tiny")}
    before, after = dict(_leaves(committed)), dict(_leaves(now))
    over = [(), *chosen.items()]  # places of values, each over those before it
    for key, value in after.items():
        layer = key[:2] if key[0] in chosen else ()
        own, setting = key[len(layer) :], f"-S {'.'.join(key)}={json.dumps(value, default=str)} has no effect:"
        if key in before and before[key] == value:
            continue
        if layer not in over:
            if key in before:
                kind = layer[0][:-1]
                yield own[0], f"{setting} {kind} is {chosen[layer[0]]}; set {kind}={layer[1]} too"
            continue
        for above in reversed(over[over.index(layer) + 1 :]):
            found = next((k for k in after if k[:2] == above and all(a == b for a, b in zip(k[2:], own, strict=False))), None)
            if found and after[found] != value:
                yield own[0], f"{setting} {'.'.join(above)} sets {json.dumps(after[found], default=str)}; set {'.'.join((*above, *own))}"
            if found:
                break


def _leaves(values: Any, place: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Values that are no sections, by their keys."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _leaves(value, (*place, str(key)))
    else:
        yield place, values


def warn_of_masked(path: Path, sections: set[str] | None = None) -> None:
    """Say which overrides change nothing, in the given sections only."""
    for section, line in masked_overrides(path):
        if sections is None or section in sections:
            print(f"warning: {line}", file=sys.stderr)
