"""What is found by the name of its module: `vrpo/algorithms/x.py` is the algorithm `x`, `vrpo/critics/x.py` the critic, `vrpo/rollout/engines/x.py`
the engine.

A module counts if it defines a class below its room's base class. That is read from its text, since to import it would bring torch, and
parameters are checked in half a second.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from vrpo.errors import UserError

BASES = {  # by room: the module and the class that all of a kind come from
    "algorithms": ("vrpo.algorithms.base", "Algorithm"),
    "critics": ("vrpo.critics.base", "Critic"),
    "rollout.engines": ("vrpo.rollout.sampler", "Sampler"),
}
CLASS = re.compile(r"^class (\w+)\((.+)\):$", re.MULTILINE)


def names(room: str) -> tuple[str, ...]:
    """All there are in a room, sorted."""
    files = sorted(Path(__file__).parent.joinpath(*room.split(".")).glob("*.py"))
    classes = [(file.stem, *found) for file in files for found in CLASS.findall(file.read_text(encoding="utf-8"))]
    known, size = {BASES[room][1]}, 0
    while len(known) > size:
        size, known = len(known), known | {name for _, name, bases in classes if known & set(re.findall(r"\w+", bases))}
    return tuple(dict.fromkeys(module for module, name, _ in classes if name in known))


def find(room: str, name: str, key: str) -> type:
    """The class of this name; its module is imported now.

    Raises:
        UserError: there is none; `key` is the parameter that asked for it.
    """
    if name not in names(room):
        raise UserError(f"{key} = {name!r}: no such {key.rpartition('.')[2]}; use one of {', '.join(names(room))}")
    module, (place, base) = import_module(f"vrpo.{room}.{name}"), BASES[room]
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    return [kind for kind in own if issubclass(kind, getattr(import_module(place), base))][-1]
