"""Files and folders that several processes share and that a kill must not leave half done: locks, files and folders written whole, JSON lines."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from vrpo.errors import UserError

LONE_SURROGATES = "backslashreplace"  # how text is encoded that UTF-8 cannot hold: \\ud800, in JSON the very same character


@contextmanager
def hold(path: Path, busy: Callable[[str], object]) -> Iterator[None]:
    """Hold `path`, a lock file that vanishes afterwards, for this process alone. A lock ends with its process.

    While another process holds it, `busy` is told once who; it may raise to give up.

    Raises:
        UserError: the folder cannot be written to.
    """
    told = False
    while (file := _locked(path)) is None:
        holder = ""
        with suppress(FileNotFoundError):  # released just now
            holder = path.read_text()
        if holder and not told:
            busy(holder)
            told = True
        time.sleep(0.2)  # not a blocking flock: Python handles signals, a cancellation among them, between the attempts
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO | None:
    """The lock file, open and locked; None while another process has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written to ({error}); free it, or name another place") from None
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else its last holder has just removed it
            return file
    file.close()
    return None


@contextmanager
def sole_writer(checkpoint: Path) -> Iterator[None]:
    """Keep a checkpoint to this process.

    Raises:
        UserError: another process works on it, or the folder cannot be written to.
    """

    def refuse(holder: str) -> None:
        raise UserError(f"{checkpoint}: process {holder} trains on this checkpoint; wait for it, stop it, or name another file")

    with hold(checkpoint.with_name(checkpoint.name + ".lock"), refuse):
        yield


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new, empty folder beside `folder` that takes its place when it is filled.

    A kill or a full disk on the way leaves an earlier `folder` as it was; in the instant between the two renames it leaves it under
    `.<name>.old`, where `present` finds it.
    """
    folder = folder.resolve()  # a link stays one
    partial, old = folder.with_name(f".{folder.name}.partial"), _old(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def present(folder: Path) -> Path:
    """Where the last whole version of a folder is that `whole_folder` writes: `folder` itself, but for a kill between its renames."""
    return _old(folder) if not folder.exists() and _old(folder).is_dir() else folder


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a kill or a full disk leaves the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", errors=LONE_SURROGATES) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is refused because it is not JSON and always a mistake here."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
        raise UserError(f"{path}: not found; correct the path, or put there what it names") from None
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
