"""Bring problems into one form and split them.

`prepare.dataset` is "procedural" (the domain's generator), a `.jsonl` file, a folder of data files, or a hub id. Rows need a question
(`question` or `problem`) and an answer (`answer` or `gold`; "reasoning #### 72" as in GSM8K is taken apart); `id`, `solution`,
`source`, `licence` and, in train, a noisy `label` are kept where present. Test comes from `prepare.test_dataset`, or is split off.
Splits never share a question (spaces aside): test wins over the others. Sizes are exact for "procedural", upper limits otherwise.

Writes `data/prepared/{train,validation,test}.jsonl`; the same parameters and data give the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from pathlib import Path
from typing import Any

from pipeline.stage import main, read_jsonl, write_jsonl
from vrpo.config import Params, PrepareConfig, UserError

OUTPUT = Path("data/prepared")
SPLITS = ("train", "validation", "test")
QUESTION = ("question", "problem")
ANSWER = ("answer", "gold")
DATA_SUFFIXES = (".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zip")

Row = dict[str, Any]


def run(params: Params, record: Any) -> dict[str, float | int | str]:
    """Prepare all splits.

    Returns:
        `rows_<split>`, and the rows left out: `duplicates_removed` (same question again), of these `conflicting_answers`
        (with another answer), and `test_overlap_removed` (train rows whose question is in the test data).

    Raises:
        UserError: data are missing or malformed (file and line are named), too few for three splits, or
            `prepare.label_noise` is declared for data without labels.
    """
    config = params.prepare
    splits, left_out = _generated(params) if config.dataset == "procedural" else _external(config)
    if config.label_noise:
        unlabelled = [row["id"] for row in splits["train"] if "label" not in row]
        if unlabelled:
            raise UserError(
                f"prepare.label_noise = {config.label_noise:g}: declares the noise of labels that come with the data, "
                f"but {len(unlabelled)} of {len(splits['train'])} training rows have no `label`, "
                f"e.g. {unlabelled[0]}; set it to 0 or add the column"
            )
    for split in SPLITS:
        write_jsonl(OUTPUT / f"{split}.jsonl", splits[split])
    print(f"{params.domain}, {config.dataset}: " + ", ".join(f"{len(splits[split])} {split}" for split in SPLITS))
    return {**{f"rows_{split}": len(splits[split]) for split in SPLITS}, **left_out}


def _generated(params: Params) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The domain's own problems: test first, so that its problems do not change with the size of the others."""
    from vrpo.tasks.procedural import procedural_task

    config, task = params.prepare, procedural_task(params)
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


def _external(config: PrepareConfig) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Local or hub data: normalise, drop repeated questions, shuffle by seed, split."""
    rows, repeated, conflicting = _distinct(_read(config.dataset, config.subset, config.split))
    overlap = 0
    wanted = {"validation": config.validation_size, "train": config.train_size}
    splits: dict[str, list[Row]] = {}
    if config.test_dataset:
        subset = config.subset if config.test_dataset == config.dataset else None
        test, repeated_in_test, conflicting_in_test = _distinct(_read(config.test_dataset, subset, config.test_split))
        repeated, conflicting = repeated + repeated_in_test, conflicting + conflicting_in_test
        kept = {key: row for key, row in rows.items() if key not in test}
        overlap, rows = len(rows) - len(kept), kept
        splits["test"] = _shuffled(test, config.seed)[: config.test_size]
        _say_if_fewer("test", len(splits["test"]), config.test_size, config.test_dataset)
    else:
        wanted = {"test": config.test_size, **wanted}
    if len(rows) < len(wanted):
        raise UserError(f"{config.dataset}: {len(rows)} usable rows cannot be split into {' and '.join(wanted)}; give more data")
    order = _shuffled(rows, config.seed)
    scale = min(1.0, len(order) / sum(wanted.values()))  # too few rows: every split gets its share
    for split, size in wanted.items():
        count = size if scale == 1.0 else max(1, math.floor(size * scale))
        splits[split], order = (order[:count], order[count:]) if split != "train" else (order[:size], [])
        _say_if_fewer(split, len(splits[split]), size, config.dataset)
    for split in ("validation", "test"):
        for row in splits[split]:
            row.pop("label", None)
    return splits, {"duplicates_removed": repeated, "conflicting_answers": conflicting, "test_overlap_removed": overlap}


def _say_if_fewer(split: str, count: int, wanted: int, dataset: str) -> None:
    if count < wanted:
        print(f"{dataset}: {count} rows for {split}, fewer than prepare.{split}_size = {wanted}")


def _shuffled(rows: dict[str, Row], seed: int) -> list[Row]:
    order = list(rows.values())
    random.Random(f"prepare-{seed}").shuffle(order)
    return order


def _distinct(rows: list[Row]) -> tuple[dict[str, Row], int, int]:
    """Rows by question text, the first of each; how many were dropped, and how many of these had another answer."""
    kept: dict[str, Row] = {}
    conflicting = sum(kept.setdefault(" ".join(row["question"].split()), row)["answer"] != row["answer"] for row in rows)
    return kept, len(rows) - len(kept), conflicting


def _read(dataset: str, subset: str | None, split: str) -> list[Row]:
    """All rows of a source in the contract's form."""
    path = Path(dataset)
    if path.suffix == ".jsonl":
        raw = read_jsonl(path)
        with path.open(encoding="utf-8") as file:
            places = [f"{path}:{number}" for number, line in enumerate(file, 1) if line.strip()]
    elif path.suffix in DATA_SUFFIXES or path.is_file():
        raise UserError(f"{dataset}: not a format this stage reads; convert it to .jsonl, or name the folder that holds it")
    else:
        raw = _load_with_datasets(dataset, subset, split)
        places = [f"{dataset} [{split}] row {number}" for number in range(len(raw))]
    name = path.stem if path.suffix == ".jsonl" else dataset
    return [_normalised(row, place, name) for row, place in zip(raw, places, strict=True)]


def _load_with_datasets(dataset: str, subset: str | None, split: str) -> list[Row]:
    """Read a hub id, or a local folder of data files, through the `datasets` library."""
    import datasets

    if not Path(dataset).is_dir():
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        from vrpo.models import hub_reachable

        try:
            validate_repo_id(dataset)
        except HFValidationError:
            raise UserError(f"{dataset}: no such file or folder, and no hub id; correct prepare.dataset or prepare.test_dataset") from None
        if not hub_reachable(dataset, "dataset"):
            datasets.config.HF_HUB_OFFLINE = True  # go to the cached copy at once, not after half a minute of retries
    try:
        rows = datasets.load_dataset(dataset, subset, split=split).to_list()
    except ConnectionError:
        raise UserError(
            f"{dataset}: no such file or folder here, and the hub is out of reach with no cached copy; "
            "correct the name, go online or use a local copy"
        ) from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        named = f"subset {subset!r}, split {split!r}" if subset else f"split {split!r}"
        raise UserError(f"{dataset} ({named}): cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if not rows:
        raise UserError(f"{dataset} [{split}]: holds no rows; an empty split cannot be used")
    return rows


def _normalised(raw: Row, place: str, name: str) -> Row:
    """One row in the contract's form; errors name `place`."""
    question = _text(raw, QUESTION, place)
    answer = _text(raw, ANSWER, place)
    solution = str(raw.get("solution") or "").strip()
    if "####" in answer:  # GSM8K: the reasoning, with calculator notes, then the answer
        reasoning, _, answer = (part.strip() for part in answer.rpartition("####"))
        solution = solution or re.sub(r"<<[^<>]*>>", "", reasoning)
        answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
        if not answer:
            raise UserError(f"{place}: no answer after ####; complete or remove the row")
    digest = hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:12]
    row = {"id": str(raw["id"] if raw.get("id") not in (None, "") else f"{name}-{digest}"), "question": question, "answer": answer}
    if solution:
        row["solution"] = solution
    if raw.get("label") is not None:
        row["label"] = _text(raw, ("label",), place)
    return {**row, "source": str(raw.get("source") or name), "licence": str(raw.get("licence") or raw.get("license") or "unknown")}


def _text(raw: Row, names: tuple[str, ...], place: str) -> str:
    """The first of the named columns as non-empty text; whole numbers lose a decimal point."""
    name = next((name for name in names if raw.get(name) is not None), None)
    if name is None:
        raise UserError(f"{place}: no `{'` or `'.join(names)}` (columns: {', '.join(map(str, raw)) or 'none'}); add it or rename a column")
    value = raw[name]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{place}: `{name}` must be text or a number, found {value!r:.60}")
    text = str(value).strip()
    if not text:
        raise UserError(f"{place}: `{name}` is empty; fill it in or remove the row")
    return text


if __name__ == "__main__":
    main("prepare", run, __doc__)
