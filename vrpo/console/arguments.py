"""Command lines: every argument is checked before anything heavy is imported, and a mistake is one line with exit code 2."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; `{self.prog} --help` shows what there is\n")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number from `low` to `high`, both included."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"{text!r:.80} is no whole number from {low} {'on' if high is None else f'to {high}'}")
        return value

    return read


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no number above 0")
    return value


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """One of the names."""
    known = list(names)

    def read(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"there is no {text!r:.80}; use one of {', '.join(known)}")
        return text

    return read


def input_file(text: str) -> Path:
    """A file that can be read."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{text!r}: not found; correct the path, or run from the folder in which it begins")
    if path.is_dir() or not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"{text!r}: {'a folder' if path.is_dir() else 'not readable'}; name a file that can be read")
    return path


def input_folder(text: str) -> Path:
    """A folder."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}: no such folder; correct the path")
    return Path(text)


def output_file(text: str) -> Path:
    """A file that can be written; folders above it are made."""
    path = Path(text)
    if path.is_dir() or not _writable(path):
        raise argparse.ArgumentTypeError(f"{text!r}: cannot be written; name a file in a folder of yours")
    return path


def output_folder(text: str) -> Path:
    """A folder that can be written to; it and folders above it are made."""
    path = Path(text)
    if path.is_file() or not _writable(path):
        raise argparse.ArgumentTypeError(f"{text!r}: cannot be written to; name a folder of yours")
    return path


def _writable(path: Path) -> bool:
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    return os.access(above, os.W_OK) and (above == path or above.is_dir())
