"""Read questions with one right answer from JSONL files, folders and the hub, and bring them into one form.

Sets and their mirrors name columns differently; here upper case and spaces do not matter, and the first that is there counts:

    question   question, problem, query
    answer     answer, gold, final_answer, expected_answer, ground_truth; a list is joined
    solution   solution, explanation, support

A domain's `read_row` may read others: see `vrpo/tasks/math/rows.py` (GSM8K) and `vrpo/tasks/science/rows.py` (options).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from vrpo.errors import OutOfReach, UserError
from vrpo.files import read_lines
from vrpo.tasks.base import Domain
from vrpo.tasks.rows import Row

LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # no tokenizer and no file takes it
DATA_SUFFIXES = (".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zip")


def read_problems(dataset: str, subset: str | None, split: str, domain: Domain, seed: int) -> list[Row]:
    """All rows of a source, see `read_placed`."""
    return [row for _, row in read_placed(dataset, subset, split, domain, seed)]


def read_placed(dataset: str, subset: str | None, split: str, domain: Domain, seed: int) -> list[tuple[str, Row]]:
    """Places and rows of a source: `id`, `question`, `answer`, `source`, `licence`; `solution`, `label` and `choices` where there are any.

    Args:
        dataset: a .jsonl file, a folder of data files, or a hub id.
        subset, split: of a folder or hub id.
        domain: whose reader reads the rows.
        seed: of the options' order.

    Raises:
        UserError: the source is missing or malformed; file and line, or row, are named.
    """
    path = Path(dataset)
    if path.suffix == ".jsonl":
        raw = [(f"{path}:{number}", row) for number, row in read_lines(path)]
    elif path.suffix in DATA_SUFFIXES or path.is_file():
        raise UserError(f"{dataset}: not a format that is read here; convert it to .jsonl, or name the folder that holds it")
    else:
        raw = [(f"{dataset} [{split}] row {number}", row) for number, row in enumerate(_load_with_datasets(dataset, subset, split))]
    name = path.stem if path.suffix == ".jsonl" else dataset
    return [(place, normalise(row, place, name, domain, seed)) for place, row in raw]


def _load_with_datasets(dataset: str, subset: str | None, split: str) -> list[Row]:
    """Read a hub id, or a local folder of data files, through the `datasets` library."""
    import datasets

    if not Path(dataset).is_dir():
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        from vrpo.models.loading import hub_reachable

        try:
            validate_repo_id(dataset)
        except HFValidationError:
            raise UserError(f"{dataset}: no such file or folder, and no hub id; correct the name") from None
        if not hub_reachable(dataset, "dataset"):
            datasets.config.HF_HUB_OFFLINE = True  # go to the cached copy at once, not after half a minute of retries
    try:
        rows = datasets.load_dataset(dataset, subset, split=split).to_list()
    except ConnectionError:
        raise OutOfReach(
            f"{dataset}: no such file or folder here, and the hub is out of reach with no cached copy; "
            "correct the name, go online or use a local copy"
        ) from None
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        if "gated" in str(error):
            raise UserError(
                f"{dataset}: gated; accept its terms at https://huggingface.co/datasets/{dataset}, then `hf auth login`, and run again"
            ) from None
        named = f"subset {subset!r}, split {split!r}" if subset else f"split {split!r}"
        raise UserError(f"{dataset} ({named}): cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if not rows:
        raise UserError(f"{dataset} [{split}]: holds no rows; an empty split cannot be used")
    return rows


def normalise(raw: Row, place: str, name: str, domain: Domain, seed: int = 0) -> Row:
    """One row in the common form; errors name `place`, `name` stands in for a missing id and source."""
    columns = {str(key).lower().replace(" ", "_"): value for key, value in raw.items()}
    for key, value in columns.items():
        if half := LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False, default=str)):
            raise UserError(f"{place}: `{key}` holds half a character ({half[0]!r}); correct or remove the row")
    row = domain.read_row(columns, place, seed)
    if lacking := [key for key in ("question", "answer") if not isinstance(row.get(key), str)]:
        raise UserError(f"{place}: read_row of {domain.title} gave no text as `{lacking[0]}`; correct it")
    digest = hashlib.sha256(" ".join(row["question"].split()).encode()).hexdigest()[:12]
    identity = str(columns["id"] if columns.get("id") not in (None, "") else f"{name}-{digest}")
    licence = str(columns.get("licence") or columns.get("license") or "unknown")
    return {"id": identity} | row | {"source": str(columns.get("source") or name), "licence": licence}
