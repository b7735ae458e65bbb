"""Bring problems into one form and split them.

`prepare.dataset` is "procedural" (the domain's generator), a `.jsonl` file, a folder of data files, or a hub id (see
`vrpo.problems` for the columns). `id`, `solution`, `source`, `licence`, options and, in train, a noisy `label` are kept where present.
Test comes from `prepare.test_dataset`, or is split off.
Splits never share a question (spaces aside): test wins over the others. Sizes are exact for "procedural", upper limits otherwise.

Writes `data/prepared/{train,validation,test}.jsonl`; the same parameters and data give the same bytes.
"""

from __future__ import annotations

import math
import random
from typing import Any

from pipeline.domains import domain_of, load_task
from pipeline.files import left_behind, write_jsonl
from pipeline.params import Params
from pipeline.stages.stage import main
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError
from vrpo.problems import read_placed
from vrpo.tasks.base import PROCEDURAL
from vrpo.tasks.rows import Row

SPLITS = ("train", "validation", "test")

Placed = tuple[str, Row]  # where the row comes from, for messages


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, float | int | str]:
    """Prepare all splits.

    Returns:
        `rows_<split>`, and the rows left out: `duplicates_removed` (same question again) and `test_overlap_removed` (train rows whose
        question is in the test data), of both `conflicting_answers` (with another answer; a line names them).

    Raises:
        UserError: data are missing or malformed (file and line are named), too few for three splits, or
            `prepare.label_noise` is declared for data without labels.
    """
    config = params.prepare
    splits, left_out = _generated(params) if config.dataset == PROCEDURAL else _external(params)
    if config.label_noise:
        unlabelled = [row["id"] for row in splits["train"] if "label" not in row]
        if unlabelled:
            raise UserError(
                f"prepare.label_noise = {config.label_noise:g}: declares the noise of labels that come with the data, "
                f"but {len(unlabelled)} of {len(splits['train'])} training rows have no `label`, "
                f"e.g. {unlabelled[0]}; set it to 0 or add the column"
            )
    for split in SPLITS:
        write_jsonl(workspace.prepared / f"{split}.jsonl", splits[split])
    print(f"{params.domain}, {config.dataset}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS))
    return {**{f"rows_{split}": len(splits[split]) for split in SPLITS}, **left_out}


def _generated(params: Params) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The domain's own problems: test first, so that its problems do not change with the size of the others."""
    config, task = params.prepare, load_task(params)
    if config.test_dataset:
        raise UserError("prepare.test_dataset: has no use with prepare.dataset = procedural, whose test problems are generated; remove it")
    splits: dict[str, list[Row]] = {}
    seen: set[str] = set()
    sizes = {"test": config.test_size, "validation": config.validation_size, "train": config.train_size}
    for offset, (split, size) in enumerate(sizes.items()):
        try:
            rows = task.generate(size, 3 * config.seed + offset, seen)
        except ValueError as error:
            raise UserError(f"prepare.{split}_size = {size}: {error}") from None
        origin = {"source": f"vrpo/{task.name}", "licence": "CC0-1.0"}
        splits[split] = [{"id": f"{task.name}-{number:06d}", **row, **origin} for number, row in enumerate(rows, len(seen))]
        seen |= {row["question"] for row in rows}
    return splits, {"duplicates_removed": 0, "conflicting_answers": 0, "test_overlap_removed": 0}


def _external(params: Params) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Local or hub data: normalise, drop repeated questions, shuffle by seed, split."""
    config, domain = params.prepare, domain_of(params)
    if missing := left_behind(config.dataset) or (config.test_dataset and left_behind(config.test_dataset)):
        raise UserError(missing)
    placed, repeated, conflicts = _distinct(read_placed(config.dataset, config.subset, config.split, domain, config.seed))
    overlap = 0
    wanted = {"validation": config.validation_size, "train": config.train_size}
    splits: dict[str, list[Row]] = {}
    if config.test_dataset:
        subset = config.subset if config.test_dataset == config.dataset else None
        in_test = read_placed(config.test_dataset, subset, config.test_split, domain, config.seed)
        test, repeated_in_test, conflicts_in_test = _distinct(in_test)
        repeated += repeated_in_test
        conflicts += conflicts_in_test + [both for key in placed if key in test and (both := _conflict(test[key], placed[key]))]
        kept = {key: row for key, row in placed.items() if key not in test}
        overlap, placed = len(placed) - len(kept), kept
        splits["test"] = _shuffled(test, config.seed)[: config.test_size]
        _say_if_fewer("test", len(splits["test"]), config.test_size, config.test_dataset)
    else:
        wanted = {"test": config.test_size, **wanted}
    if conflicts:
        some = "; ".join(conflicts[:3]) + ("; ..." if len(conflicts) > 3 else "")
        print(f"warning: {len(conflicts)} repeated questions have another answer, the first one counts: {some}")
    if len(placed) < len(wanted):
        raise UserError(f"{config.dataset}: {len(placed)} usable rows cannot be split into {' and '.join(wanted)}; give more data")
    order = _shuffled(placed, config.seed)
    scale = min(1.0, len(order) / sum(wanted.values()))  # too few rows: every split gets its share
    for split, size in wanted.items():
        count = size if scale == 1.0 else max(1, math.floor(size * scale))
        splits[split], order = (order[:count], order[count:]) if split != "train" else (order[:size], [])
        _say_if_fewer(split, len(splits[split]), size, config.dataset)
    for split in ("validation", "test"):
        for row in splits[split]:
            row.pop("label", None)
    return splits, {"duplicates_removed": repeated, "conflicting_answers": len(conflicts), "test_overlap_removed": overlap}


def _say_if_fewer(split: str, count: int, wanted: int, dataset: str) -> None:
    if count < wanted:
        print(f"{dataset}: {count} rows for {split}, fewer than prepare.{split}_size = {wanted}")


def _shuffled(placed: dict[str, Placed], seed: int) -> list[Row]:
    order = [row for _, row in placed.values()]
    random.Random(f"prepare-{seed}").shuffle(order)
    return order


def _distinct(placed: list[Placed]) -> tuple[dict[str, Placed], int, list[str]]:
    """Rows by question, the first of each; how many were dropped, and those of them that had another answer."""
    kept: dict[str, Placed] = {}
    conflicts = [both for row in placed if (both := _conflict(kept.setdefault(_question(row[1]), row), row))]
    return kept, len(placed) - len(kept), conflicts


def _question(row: Row) -> str:
    """What makes two rows the same question: the text, spaces aside; of multiple choice, options in any order."""
    stem, texts = row["question"], sorted(choice["text"] for choice in row.get("choices", ()))
    if texts:
        stem = "\n".join(stem.split("\n")[: -len(texts)])
    return "\n".join([" ".join(stem.split()), *texts])


def _conflict(first: Placed, other: Placed) -> str:
    """Places and answers of two rows with one question; empty where the answers agree."""
    said = [row["answer"].partition(". ")[2] if "choices" in row else row["answer"] for _, row in (first, other)]
    return "" if said[0] == said[1] else f"{first[0]} {said[0]!r:.60}, {other[0]} {said[1]!r:.60}"


if __name__ == "__main__":
    main("prepare", run, __doc__)
