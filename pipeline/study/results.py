"""Lines of finished cells: data/reports/study/<name>.jsonl."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.files import read_jsonl
from pipeline.overlays import complaints
from pipeline.params import Params
from pipeline.study.file import cell_key

REPORTS = Path("data/reports/study")
NEEDED = {"run": {"accuracy", "critic", "log", "length_inflation", "proxy_gap", "rollouts", "seconds"}, "critic": {"rollouts", "seconds"}}


def finished(path: Path, cold_start: float) -> dict[str, dict[str, Any]]:
    """The lines of a study's finished cells by key. Parameters that did not exist when a cell ran count with their defaults.

    Lines with parameters that do not exist any more, or not with such values, or without what reports need, are of older code: they are
    told of and left where they are. A line without results, of a cell whose cold start was too poor, counts while that is below `cold_start`.
    """
    file, found, older = REPORTS / f"{path.stem}.jsonl", {}, []
    for number, line in enumerate(read_jsonl(file) if file.exists() else [], 1):
        try:
            missing = NEEDED[line["kind"]] - line.keys()
            if "accuracy_init" in line and {"accuracy", "seconds"} <= missing:
                if line["accuracy_init"] >= cold_start:
                    continue
            elif missing:
                raise KeyError(*sorted(missing)[:1])
            found[cell_key(line["kind"], line["method"], line["seed"], Params.model_validate(line["params"]), line.get("own_code", ""))] = (
                line
            )
        except (ValidationError, KeyError) as error:
            alone, together = complaints(Params, line["params"]) if isinstance(error, ValidationError) else ([f"no {error}"], [])
            older.append((number, [*alone, *together][0]))
    if older:
        first, reason = older[0]
        print(
            f"{file}: {len(older)} of {len(found) + len(older)} lines are of older code and do not count, e.g. {first}: {reason}",
            file=sys.stderr,
        )
    return found
