"""Code of one's own, named as FILE.py:NAME: checked without running it, loaded where it is used."""

from __future__ import annotations

import ast
import symtable
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from vrpo.errors import UserError

_FILES: dict[str, Path] = {}  # of modules that were loaded here, by name


def is_spec(value: str) -> bool:
    """Whether a value names a file rather than something that comes with the project."""
    return ":" in value or value.endswith(".py")


def file_of(spec: str) -> Path:
    """The file of FILE.py:NAME, relative to the folder in which it is named."""
    return Path(spec.rpartition(":")[0])


@contextmanager
def naming(parameter: str, spec: str) -> Iterator[None]:
    """Put parameter and value before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{parameter} = {spec!r}: {error}") from error.__cause__


def check(spec: str, root: Path) -> None:
    """Make sure that a file exists, is Python and defines the name at its top, without running it.

    Args:
        spec: FILE.py:NAME, the file relative to `root`.

    Raises:
        UserError: it is not; says what to do, the caller says for which parameter (see `naming`).
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError("write FILE.py:NAME, the file and what to take from it")
    path = root / file
    if not path.is_file():
        raise UserError(f"no file {file} in {root.resolve()}; correct the path")
    try:
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
        top, stars = symtable.symtable(text, str(path), "exec").get_symbols(), ast.walk(ast.parse(text))
    except OSError as error:
        raise UserError(f"cannot be read ({error}); correct the path or the file") from None
    except (SyntaxError, ValueError) as error:  # ValueError: not UTF-8, or a NUL
        raise UserError(f"{file}, line {getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}; correct it") from None
    names = [symbol.get_name() for symbol in top if symbol.is_assigned() or symbol.is_imported()]
    if name not in names and not any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in stars):
        close = get_close_matches(name, names, n=1)
        raise UserError(
            f"{file} defines no {name} at its top{f' (did you mean {close[0]}?)' if close else ''}; define it, or correct the name"
        )


def load(spec: str, root: Path) -> Any:
    """What FILE.py:NAME names. The file is run once a process; its folder joins the end of the import path, so that files beside it can be
    imported and worker processes, which inherit the path, find what was pickled.

    Raises:
        UserError: see `check`; or the file fails when it is run, or its name is another module's.
    """
    check(spec, root)
    file, _, name = spec.rpartition(":")
    path = (root / file).resolve()
    if _FILES.get(path.stem) != path:
        _run(path, file)
    try:
        return getattr(sys.modules[path.stem], name)
    except AttributeError:
        raise UserError(f"{file} has no {name} after it ran; define it in every case") from None


def _run(path: Path, file: str) -> None:
    found = find_spec(path.stem) if path.stem not in _FILES else None
    if found and found.origin != str(path):
        raise UserError(f"{file} has the name of another module ({found.origin}); rename the file")
    if new := str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        if new:
            sys.path.remove(str(path.parent))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{file}, line {lines[-1] if lines else 1}, cannot be run ({reason}); correct it") from error
    _FILES[path.stem] = path
