"""Own code that parameters name, as `file.py:name`: looked at when parameters are checked, run only where it is used."""

from __future__ import annotations

import ast
import sys
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from symtable import symtable
from traceback import extract_tb
from typing import Any

from pipeline.params import Params
from vrpo.errors import UserError, shown


def files(params: Params) -> list[Path]:
    """The files of own code that the parameters name."""
    return [Path(spec.rpartition(":")[0]) for spec in _named(params).values()]


def check(params: Params, root: Path) -> None:
    """Make sure, without running it, that own code is there: the files below `root`, their syntax and the names in them.

    Raises:
        UserError: names parameter, value and cure.
    """
    for parameter, spec in _named(params).items():
        _find(spec, root, parameter)


def load(spec: str, root: Path, parameter: str = "reward.function") -> Any:
    """What `file.py:name` stands for; the file, below `root`, is run.

    Raises:
        UserError: it is not there or cannot be run, or the name is nothing that can be called; names `parameter`, value and cure.
    """
    path, name = _find(spec, root, parameter)
    source = spec_from_file_location(f"own_code_{path.stem}", path)
    assert source and source.loader  # of every .py file
    module = sys.modules[source.name] = module_from_spec(source)
    try:
        source.loader.exec_module(module)
    except Exception as error:
        line = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)][-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{parameter} = {spec!r}: {path.name}, line {line}, cannot be run ({reason}); correct it") from error
    if not callable(found := getattr(module, name, None)):
        raise UserError(f"{parameter} = {spec!r}: {name} is {shown(found)}, which cannot be called; name a function or a class")
    return found


def _named(params: Params) -> dict[str, str]:
    """What stands for own code, by its parameter."""
    reward = params.reward
    return {"reward.function": reward.function} if reward.kind == "function" and reward.function else {}


def _find(spec: str, root: Path, parameter: str) -> tuple[Path, str]:
    """File and name; the file is read, not run."""
    file, _, name = spec.rpartition(":")
    given, path = f"{parameter} = {spec!r}", (root / file).absolute()
    if not file.endswith(".py") or not name.isidentifier():
        raise UserError(f"{given}: write file.py:name, the file and what to take from it")
    try:
        source = path.read_text(encoding="utf-8")
        compile(source, str(path), "exec")
    except FileNotFoundError:
        raise UserError(f"{given}: there is no file {path}; correct the path, which starts in the project's folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{given}: cannot be read ({error}); correct the path or the file") from None
    except (SyntaxError, ValueError) as error:  # the latter: a zero byte
        line = f", line {error.lineno}," if isinstance(error, SyntaxError) else ""
        raise UserError(f"{given}: {file}{line} is no Python ({getattr(error, 'msg', error)}); correct it") from None
    symbols = symtable(source, str(path), "exec").get_symbols()
    names = [symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()]
    unseen = any(alias.name == "*" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) for alias in node.names)
    if name not in names and not unseen:
        close = get_close_matches(name, names, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"{given}: {file} defines no {name!r}{meant}; define it there or correct the name")
    return path, name
