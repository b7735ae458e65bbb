"""Files of the pipeline: JSON and JSON lines, written whole or not at all, read with errors that name place and cure."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from vrpo.errors import UserError

LONE_SURROGATES = "backslashreplace"  # how text is encoded that UTF-8 cannot hold: \\ud800, in JSON the very same character


MADE = ("prepared", "validation", "models", "labels", "runs", "evaluations", "tokens", "metrics", "reports")  # below data/, by stages


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a kill or a full disk leaves the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", errors=LONE_SURROGATES) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused because it is not JSON and always a mistake here."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
    """Read one JSON object a line.

    Raises:
        UserError: the file is missing or empty, or a line is not a JSON object (file and line are named).
    """
    return [row for _, row in read_lines(path)]


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Like `read_jsonl`, each row with its line's number. Byte-order marks and ends of lines of other systems are taken off."""
    rows = []
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
            raise UserError(f"{path}: UTF-16 or UTF-32, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {path} > utf8.jsonl")
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                text = line.lstrip("\ufeff")
                if not text.strip():
                    continue
                try:
                    row = json.loads(text, object_pairs_hook=_once)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: not valid JSON ({error}); fix or remove the line") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                rows.append((number, row))
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a UTF-8 text file with one JSON object a line ({error})") from None
    except FileNotFoundError:
        raise UserError(not_found(path)) from None
    if not rows:
        raise UserError(f"{path}: holds no rows; an empty split cannot be used")
    return rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that comes twice would lose its first value in silence."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return row


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
