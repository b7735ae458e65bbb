"""Rows of data sets: columns by the names that sets and their mirrors give them, read as text; errors name the row's place.

Here `columns` are a row's, their names in small letters and with `_` for spaces. Of several names the first that is there counts.
"""

from __future__ import annotations

import math
from typing import Any

from vrpo.errors import UserError

QUESTION = ("question", "problem", "query")
ANSWER = ("answer", "gold", "final_answer", "expected_answer", "ground_truth")
SOLUTION = ("solution", "explanation", "support")

Row = dict[str, Any]


def read_row(columns: Row, place: str, seed: int) -> Row:
    """A question with one right answer: `question`, `answer`, and `solution` and the noisy `label` where there are any.

    Args:
        columns: of the row, see above.
        place: of the row, for messages.
        seed: of what a reader draws, such as the order of options; nothing here.

    Raises:
        UserError: a column is missing or no text.
    """
    row = {"question": text_of(columns, QUESTION, place), "answer": text_of(columns, ANSWER, place)}
    return row | solution_of(columns) | ({} if columns.get("label") is None else {"label": text_of(columns, ("label",), place)})


def solution_of(columns: Row) -> Row:
    """`solution` as text, nothing where the row has none."""
    found = next((columns[key] for key in SOLUTION if columns.get(key)), "")
    text = "\n".join(map(str, found)) if isinstance(found, list) else str(found).strip()
    return {"solution": text} if text else {}


def text_of(columns: Row, names: tuple[str, ...], place: str) -> str:
    """The first of the named columns as non-empty text; whole numbers lose a decimal point, lists of texts are joined."""
    name = next((name for name in names if columns.get(name) is not None), None)
    if name is None:
        raise UserError(f"{place}: no `{'` or `'.join(names)}` (columns: {', '.join(columns) or 'none'}); add it or rename a column")
    value = columns[name]
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(f"{place}: `{name}` must be text or a number, found {value!r:.60}")
    text = str(value).strip().replace("\r\n", "\n")
    if not any(char.isprintable() and not char.isspace() for char in text):  # nor by zero-width spaces
        raise UserError(f"{place}: `{name}` is empty; fill it in or remove the row")
    return text
