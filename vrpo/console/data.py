"""Rows of prompts from what a user has: .jsonl, .csv and .parquet files, folders of them, data sets of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrpo.errors import UserError
from vrpo.files import read_jsonl
from vrpo.seeding import uniform

Row = dict[str, Any]


def read_rows(source: str, split: str) -> list[Row]:
    """All rows of a source, as they stand there; the columns of .csv files are text.

    Args:
        source: a file, a folder of files, or a hub id.
        split: of a folder or hub id.

    Raises:
        UserError: it is missing, empty, or cannot be read.
    """
    path = Path(source)
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix in (".csv", ".parquet"):
        return _read_table(path)
    if path.is_file() or path.suffix in (".json", ".tsv", ".txt"):
        raise UserError(f"{source}: not a format that is read here; convert it to .jsonl, .csv or .parquet")
    from vrpo.problems import load_rows

    return load_rows(source, None, split)


def _read_table(path: Path) -> list[Row]:
    if not path.is_file():
        raise UserError(f"{path}: not found; correct the path, or run from the folder in which it begins")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            import pandas

            rows = pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise is one of the two
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); correct it, or convert it to .jsonl") from None
    if not rows:
        raise UserError(f"{path}: holds no rows; at least one prompt is needed")
    return rows


def with_prompts(rows: list[Row], column: str, chat: bool, source: str) -> list[Row]:
    """Rows whose `prompt` is what `column` holds; with `chat` a text becomes a user's message.

    Raises:
        UserError: there is no such column.
    """
    if (place := next((place for place, row in enumerate(rows) if row.get(column) is None), None)) is not None:
        raise UserError(f"{source}, row {place}: no {column!r} among {', '.join(rows[place])}; name the column with --prompt-column")
    asked = [{key: value for key, value in row.items() if key != column} | {"prompt": row[column]} for row in rows]
    if chat:
        return [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} if isinstance(row["prompt"], str) else row for row in asked]
    return asked


def split_off(rows: list[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows without `count` of them, and these, drawn by `seed`."""
    chosen = set(sorted(range(len(rows)), key=lambda place: uniform("held out", seed, place))[:count])
    kept = [row for place, row in enumerate(rows) if place not in chosen]
    return kept, [row for place, row in enumerate(rows) if place in chosen]
