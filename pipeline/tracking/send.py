"""Bring MLflow up to date with record files."""

from __future__ import annotations

import os
import re
import select
import sys
from pathlib import Path

from pipeline.tracking.file import FOLDER, read_events
from pipeline.tracking.mirror import connect, mirror, tracking_uri
from vrpo.errors import UserError

LIVE_SECONDS = 5.0  # between two live updates


def follow(path: Path, parent: int) -> str:
    """Mirror `path` every few seconds until the stage ends (its end of stdin closes, or it dies). Returns the last error or ""."""
    pause = 0.0
    while True:
        closing = bool(select.select([sys.stdin], [], [], pause)[0]) or os.getppid() != parent
        pause = LIVE_SECONDS
        error = _catch_up(path, closing)
        if error and not _in_a_folder():  # that of an aborted experiment is removed, its record is not
            os.chdir(path.parent)
            error = _catch_up(path, closing)
        if closing:
            return error


def _catch_up(path: Path, closing: bool) -> str:
    """Returns why MLflow did not take it, or ""."""
    try:
        mirror(path, connect(), closing=closing)
    except Exception as error:  # whatever MLflow raises, the record is safe and the stage goes on
        return one_line(error)
    return ""


def sync_or_warn() -> None:
    """`sync` all at once, where a mirror beside each of many short runs would cost more than many a run; its troubles are one line."""
    try:
        if tracking_uri() != "off":
            sync()
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)


def _in_a_folder() -> bool:
    """Whether the working folder still exists, without which MLflow does not start."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def sync() -> int:
    """Bring MLflow up to date with every record file. Returns the number of record files."""
    if tracking_uri() == "off":
        raise UserError("MLFLOW_TRACKING_URI is 'off': there is nothing to send records to; unset it or give a store")
    paths = sorted(FOLDER.rglob("*.jsonl"))
    for path in paths:
        pids = [event["pid"] for event in read_events(path) if "pid" in event]
        try:
            mirror(path, connect(), closing=not (pids and _alive(pids[-1])))
        except Exception as error:
            where, reason = public(tracking_uri()), one_line(error)
            raise UserError(f"{path}: MLflow ({where}) did not take the record: {reason}; nothing is lost, sync again") from error
    return len(paths)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def one_line(error: Exception) -> str:
    return public(" ".join(str(error).split()) or type(error).__name__)[:200]


def public(text: str) -> str:
    """The text without user names and passwords in URLs."""
    return re.sub(r"//[^/\s]*@", "//", text)
