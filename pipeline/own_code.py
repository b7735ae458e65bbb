"""Code of one's own that parameters name; `vrpo.own_code` checks and loads it."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.files import left_behind
from vrpo import own_code
from vrpo.errors import UserError
from vrpo.own_code import file_of, is_spec, load, naming

__all__ = ["check", "digest", "file_of", "is_spec", "load", "named", "naming"]


def named(params: Any) -> dict[str, str]:
    """What of `pipeline.params.Params` names code of one's own, by parameter."""
    found = {"domain": params.domain} if is_spec(params.domain) else {}
    return found | ({"reward.function": params.reward.function} if params.reward.kind == "function" else {})


def digest(params: Any) -> str:
    """Of the content of all files that are `named`; "" where there are none."""
    content = b"".join(file_of(spec).read_bytes() for spec in named(params).values())
    return sha256(content).hexdigest()[:16] if content else ""


def check(spec: str, root: Path) -> None:
    """`vrpo.own_code.check`, with the cure for a file that is not in the copy in which an experiment runs."""
    if missing := left_behind(root / file_of(spec)):
        raise UserError(missing)
    own_code.check(spec, root)
