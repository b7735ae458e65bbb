"""Files of the pipeline: as `vrpo.files` reads and writes them, with cures for what the stages make."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from vrpo import files
from vrpo.errors import UserError
from vrpo.files import LONE_SURROGATES, write_atomically, write_json, write_jsonl

__all__ = [
    "LONE_SURROGATES",
    "MADE",
    "append_line",
    "left_behind",
    "not_found",
    "read_json",
    "read_jsonl",
    "write_atomically",
    "write_json",
    "write_jsonl",
]

MADE = ("prepared", "validation", "models", "labels", "runs", "evaluations", "tokens", "metrics", "reports")  # below data/, by stages


def append_line(path: Path, line: str) -> None:
    """Add a line to a file in one piece: a kill or a full disk leaves all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = f"{line}\n".encode("utf-8", LONE_SURROGATES)
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file that holds an object, or another `kind` of value.

    Raises:
        UserError: it does not.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); remove the file and run `dvc repro`") from None
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected a JSON {kind.__name__}, found {type(value).__name__}; remove the file and run `dvc repro`")
    return value


def not_found(path: str | Path) -> str:
    """The message about a path that is not there, with the cure that fits: what the stages make, they can make again."""
    parts = Path(path).parts
    made = parts[:1] == ("data",) and parts[1:2] and parts[1] in MADE
    cure = "run `dvc repro`, which makes it" if made else "correct the path, or put there what it names"
    return left_behind(path) or f"{path}: not found; {cure}"


def left_behind(path: str | Path) -> str | None:
    """The message about a path that the checkout has, but not the copy of it in which an experiment of `dvc exp run --temp` runs.

    DVC_ROOT is the checkout; the copy holds what Git knows of it, and lies elsewhere.
    """
    path, root = Path(path), Path(os.environ.get("DVC_ROOT") or ".").resolve()
    if path.exists() or path.is_absolute() or not (root / path).exists():
        return None
    if (root / path).resolve().is_relative_to(root):
        return f"{path}: not found in the experiment's copy of {root}, which holds what Git knows; `git add {path}` there and run it again"
    return f"{path}: not found from the experiment's copy of {root}, which lies elsewhere; use the absolute path {(root / path).resolve()}"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """`vrpo.files.read_jsonl`; of a file that is not there with the cure that fits."""
    if not path.exists():
        raise UserError(not_found(path))
    return files.read_jsonl(path)
