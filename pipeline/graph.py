"""What dvc.yaml tells of a stage: the sections of the parameters that it reads, its code, and the stages whose outputs it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]  # dvc.yaml lies beside the code that it names


@dataclass(frozen=True)
class Stage:
    """A stage of the graph, whatever its number of cells.

    Attributes:
        sections: of the resolved parameters.
        code: modules and rooms, relative to the project's folder.
        upstream: names of the stages it depends on.
        made: its outputs and metrics, with the matrix's names in braces.
        matrix: whether it runs once for each method and seed.
    """

    sections: tuple[str, ...]
    code: tuple[str, ...]
    upstream: tuple[str, ...]
    made: tuple[str, ...]
    matrix: bool


@cache
def stages() -> dict[str, Stage]:
    """All stages in the order of dvc.yaml, which is one in which they can run."""
    entries = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    made = {out: name for name, entry in entries.items() for out in _outputs(entry)}
    found = {}
    for name, entry in entries.items():
        sections = [key for params in entry.get("params", ()) for keys in params.values() for key in keys]
        code = [dep for dep in entry["deps"] if dep.startswith(("vrpo/", "pipeline/"))]
        upstream = [
            made[out] for dep in entry["deps"] for out in made if f"{out}/".startswith(f"{dep}/") or f"{dep}/".startswith(f"{out}/")
        ]
        found[name] = Stage(tuple(sections), tuple(code), tuple(dict.fromkeys(upstream)), tuple(_outputs(entry)), "matrix" in entry)
    return found


def _outputs(entry: dict[str, Any]) -> Iterator[str]:
    for out in [*entry.get("outs", ()), *entry.get("metrics", ())]:
        yield next(iter(out)) if isinstance(out, dict) else out


@cache
def code_digest(stage: str) -> str:
    """Of all files of a stage's code, as they were when this process asked first."""
    files = [file for name in stages()[stage].code for file in _files(ROOT / name)]
    return digest([[file.relative_to(ROOT).as_posix(), file.read_bytes().hex()] for file in files])


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts) if path.is_dir() else [path]


def digest(value: Any) -> str:
    """Short name of a value that JSON can hold."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
