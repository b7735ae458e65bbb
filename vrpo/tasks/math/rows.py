"""Rows of free-form mathematics: question and answer, in GSM8K's form too."""

from __future__ import annotations

import re

from vrpo.errors import UserError
from vrpo.tasks import rows


def read_row(columns: rows.Row, place: str, seed: int) -> rows.Row:
    """See `vrpo.tasks.rows.read_row`; an answer "reasoning #### 72" is taken apart, its calculator notes taken out."""
    row = rows.read_row(columns, place, seed)
    if "####" not in row["answer"]:
        return row
    reasoning, _, answer = (part.strip() for part in row["answer"].rpartition("####"))
    solution = row.get("solution") or re.sub(r"<<[^<>]*>>", "", reasoning)
    answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
    if not answer:
        raise UserError(f"{place}: no answer after ####; complete or remove the row")
    parts = {"question": row["question"], "answer": answer, "solution": solution, "label": row.get("label")}
    return {key: value for key, value in parts.items() if value}
