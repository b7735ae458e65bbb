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
