"""Files and folders that several processes share and that a kill must not leave half done: locks, folders written whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from vrpo.errors import UserError


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
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        take_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_folder(folder: Path) -> Path:
    """What `whole_folder` gives, for processes that fill it together."""
    folder = folder.resolve()  # a link stays one
    return folder.with_name(f".{folder.name}.partial")


def take_place(partial: Path, path: Path) -> None:
    """Put a file or folder in the place of another, of either kind, which is kept until then (see `present`)."""
    path = path.resolve()
    if path.exists() and (path.is_dir() or partial.is_dir()):  # a file is replaced by another at once
        _remove(_old(path))
        path.rename(_old(path))
    partial.replace(path)
    _remove(_old(path))


def present(path: Path) -> Path:
    """Where the last whole version of what `take_place` writes is: `path` itself, but for a kill between its renames."""
    return _old(path) if not path.exists() and _old(path).exists() else path


def _old(path: Path) -> Path:
    path = path.resolve()
    return path.with_name(f".{path.name}.old")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
