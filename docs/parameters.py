"""Write docs/parameters.md from the models in `pipeline/params.py`, `vrpo/config.py` and `vrpo/rewards/noise/`: python -m docs.parameters.

Types, limits and defaults come from pydantic's JSON schema, descriptions from the comments beside (or right above) the fields.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.overlays import models_in
from pipeline.params import Params

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Parameters

Written by `python -m docs.parameters` from the schema in `pipeline/params.py`, `vrpo/config.py` and `vrpo/rewards/noise/`; a test holds it current. `params.yaml` sets the values. A key that
it leaves out has its default. A wrong key or value stops every stage before it starts, with its name.

`domain` lays the values under `domains.<name>` over the sections: `math` (nothing more), `science`, `dialogue`, or one of
[your own](extend.md#a-domain); over both, `profile` lays those
under `profiles.<name>`: `tiny` (nothing more), `mini` (tests), `smollm2`. Override such a value where it stands, e.g.
`-S domains.science.base.steps=800`. `prepare.dataset: procedural` means the domain's own problems.

[concepts.md](concepts.md#the-loop) says why lambda is below 1 and where the value warm-up's rollouts come from. In Python the same models are those of `vrpo.config`: `TrainConfig(gae_lambda=0.8, critic={"depth": 2})`.
"""
SIGNS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def render() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_section("", Params)])


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    """One table for a model's own keys, then its sections, each under its dotted name."""
    schema, said, inner = model.model_json_schema(), comments(model), {}
    rows = []
    for key, field in model.model_fields.items():
        kinds = models_in(field.annotation)
        inner |= {f"{key}: {kind.model_fields['kind'].default}" if len(kinds) > 1 else key: kind for kind in kinds}
        if kinds != [field.annotation]:  # no section, or one that is off until it is named, or a list of them
            default = "" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
            cells = f"`{key}`", _allowed(schema["properties"][key]), default, said.get(key, "").replace("|", "\\|")
            rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    yield f"## {name or 'At the top'}\n\n{inspect.getdoc(model)}\n\n| key | allowed | default | meaning |\n| --- | --- | --- | --- |"
    yield from [*rows, ""]
    for key, kind in inner.items():
        yield from _section(f"{name}.{key}".strip("."), kind)


def _allowed(entry: dict[str, Any]) -> str:
    """A property of a JSON schema in words."""
    if "anyOf" in entry:
        return " or ".join(map(_allowed, entry["anyOf"]))
    if values := entry.get("enum") or [entry[key] for key in ("const",) if key in entry]:
        return ", ".join(f"`{value}`" for value in values)
    if "$ref" in entry or "oneOf" in entry:
        return "a section" if "$ref" in entry else "sections"
    if entry["type"] == "array":
        return f"list of {_allowed(entry['items'])}"
    limits = [f"{sign} {entry[key]:.10g}" for key, sign in SIGNS.items() if key in entry]
    return " ".join(
        [{"string": "text", "boolean": "true, false", "object": "keys and values"}.get(entry["type"], entry["type"]), ", ".join(limits)]
    ).strip()


def comments(model: type[BaseModel]) -> dict[str, str]:
    """The comment of each field: on its own lines, or on lines of comments alone right above it."""
    source = textwrap.dedent(inspect.getsource(model))
    lines = source.splitlines()
    found = {
        t.start[0]: t.string.lstrip("# ") for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
    }
    said = {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            first = node.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            said[node.target.id] = " ".join(found[line] for line in range(first, node.end_lineno + 1) if line in found)
    return said


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
