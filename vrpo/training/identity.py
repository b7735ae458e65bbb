"""Which run is this? A fingerprint by content: the same data and settings give the same one in every process, others never do."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping, Sequence, Set
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from vrpo.config import MEMORY_SETTINGS
from vrpo.errors import UserError
from vrpo.training.checkpoint import tensors_digest, weights

PLAIN = (bool, int, float, complex, type(None))


def fingerprint(
    config: Any, generation: Any, rows: Mapping[str, Sequence[Mapping[str, Any]]], tokens: Any, policy: nn.Module, **settings: Any
) -> dict[str, Any]:
    """What must not change between a kill and its resumption, by name, as JSON holds it.

    Args:
        config, generation: the run's `TrainConfig` and `GenerationConfig`.
        rows: training and validation rows by split.
        tokens: what the tokenizer makes of their prompts.
        policy: before training.
        settings: further values, as they are.

    Raises:
        UserError: a column holds something without content of its own, such as an open file.
    """
    return {
        "config": config.model_dump(mode="json", exclude=MEMORY_SETTINGS["train"]),
        "generation": generation.model_dump(mode="json", exclude=MEMORY_SETTINGS["generation"]),
        **settings,
        "data": digest_rows(rows),
        "tokens": content(tokens).hex()[:16],
        "policy": tensors_digest(weights(policy))[:16],
    }


def digest_rows(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A short digest of rows by split; what cannot be told apart by content is refused with its place."""
    found = []
    for split, part in rows.items():
        for index, row in enumerate(part):
            for column, value in row.items():
                try:
                    found.append(content((split, index, column, value)))
                except (TypeError, ValueError, RecursionError) as error:
                    raise UserError(
                        f"{split} row {index}: column {column!r} holds a {type(value).__name__} whose content cannot be told from another's "
                        f"({error}), so that a checkpoint could not know its data again; give values, or an object that can be pickled"
                    ) from None
        found.append(content((split, len(part))))
    return content(sorted(found)).hex()[:16]


@cache
def code_digest() -> str:
    """A short digest of this package's source code as it lies on the disk."""
    root = Path(__file__).parents[1]
    return content([(str(file.relative_to(root)), file.read_bytes()) for file in sorted(root.rglob("*.py"))]).hex()[:16]


def content(value: Any, inside: tuple[int, ...] = ()) -> bytes:
    """32 bytes that two values share if they have the same content, in whatever process and container.

    Lists, tuples and arrays of the same elements are the same; so are sets and dictionaries in whatever order. Arrays count whole. Of any
    other object its type and the state that `pickle` would save count, of a function its code and what it closes over. `inside` holds the
    ids of the containers around the value: one that holds itself is written as the distance to itself.

    Raises:
        TypeError: the value has no such state (an open file, a lock, a generator).
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    if not isinstance(value, type) and hasattr(value, "tolist") and hasattr(value, "dtype"):  # arrays and scalars of numpy and torch
        value = value.tolist()
    if type(value) in PLAIN:
        return _digest(type(value).__name__, repr(value).encode())
    if isinstance(value, str) and type(value) is str:
        return _digest("str", value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes | bytearray):
        return _digest("bytes", bytes(value))
    if id(value) in inside:
        return _digest("inside", str(len(inside) - inside.index(id(value))).encode())
    inside = (*inside, id(value))
    if type(value) in (list, tuple, range):
        kinds = set(map(type, value))
        if kinds <= {int} or kinds <= {float}:  # the long ones: token ids, embeddings
            return _digest("numbers", repr(list(value)).encode())
        return _digest("list", *(content(item, inside) for item in value))
    if type(value) in (set, frozenset) or (isinstance(value, Set) and not isinstance(value, Mapping)):
        return _digest("set", *sorted(content(item, inside) for item in value))
    if isinstance(value, Mapping):
        return _digest("dict", *sorted(content(key, inside) + content(item, inside) for key, item in value.items()))
    if isinstance(value, type | BuiltinFunctionType):
        return _digest("name", f"{value.__module__}.{value.__qualname__}".encode())
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return _digest("function", content([value.__code__, value.__defaults__, value.__kwdefaults__, cells], inside))
    if isinstance(value, CodeType):
        return _digest("code", content([value.co_code, value.co_consts, value.co_names, value.co_varnames], inside))
    state = value.__reduce_ex__(4)
    if isinstance(state, str):
        return _digest("name", f"{type(value).__module__}.{state}".encode())
    make, arguments, *rest = state
    parts = [None if part is None else list(part) if hasattr(part, "__next__") else part for part in rest]  # items come as iterators
    make = "new" if make in (copyreg.__newobj__, copyreg.__newobj_ex__) else make
    return _digest("object", content([type(value), make, arguments, parts], inside))


def _digest(kind: str, *parts: bytes) -> bytes:
    total = sha256(f"{kind} {len(parts)} ".encode())
    for part in parts:
        total.update(b"%d " % len(part) + part)
    return total.digest()
