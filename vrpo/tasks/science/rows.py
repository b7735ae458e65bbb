"""Rows of multiple choice, whose sets name options in many ways; of several columns the first that is there counts:

options    choices, options (texts; labels and texts, as two lists or pairs; letters to texts); columns A, B, C, D; or the wrong ones
           alone: distractor1.. (SciQ), incorrect_answer_1.. (GPQA)
right one  answer_letter, answerkey, correct_answer, then as for other answers, answer_index: a label, a letter, a text, or a place from 0 on
"""

from __future__ import annotations

import random
import re

from vrpo.errors import UserError
from vrpo.tasks.rows import ANSWER, QUESTION, Row, solution_of, text_of
from vrpo.tasks.science.task import option_lines, states

RIGHT_OPTION = ("answer_letter", "answerkey", "correct_answer", *ANSWER, "answer_index")
WRONG_OPTION = re.compile(r"(?:distractor|incorrect_answer)_?\d+")

Options = list[tuple[str | None, str]]  # label in the source, text


def read_row(columns: Row, place: str, seed: int) -> Row:
    """See `vrpo.tasks.rows.read_row`; `question` ends in the options, shuffled by seed and question, `answer` and `label` are lines of them.

    `choices` holds the options' letters and texts.
    """
    question, options = text_of(columns, QUESTION, place), _options(columns, place)
    for number in reversed(range(len(options))):  # the options may be in the question already
        label, text = options[number]
        spaced = r"\s+".join(map(re.escape, text.split()))
        question = re.sub(rf"\n\s*\(?{re.escape(label or chr(65 + number))}[.):]+\s*{spaced}\s*$", "", question)
    right = _place_of(columns, RIGHT_OPTION, options, place)
    noisy = _place_of(columns, ("label",), options, place) if columns.get("label") is not None else None
    order = random.Random(f"options-{seed}-{' '.join(question.split())}").sample(range(len(options)), len(options))
    try:
        lines, choices = option_lines([options[number][1] for number in order])
    except ValueError as error:
        raise UserError(f"{place}: {error}; correct or remove the row") from None
    row = {"question": "\n".join([question, *lines]), "answer": lines[order.index(right)]} | solution_of(columns) | {"choices": choices}
    return row if noisy is None else row | {"label": lines[order.index(noisy)]}


def _options(columns: Row, place: str) -> Options:
    """Labels (None where the source has none) and texts of a row's options."""
    value = next((columns[key] for key in ("choices", "options") if columns.get(key)), None)
    if isinstance(value, dict) and {"label", "text"} <= value.keys():  # ARC: two lists
        found = list(zip(value["label"], value["text"], strict=True))
    elif isinstance(value, dict):
        found = list(value.items())
    elif isinstance(value, list) and all(isinstance(item, dict) and {"label", "text"} <= item.keys() for item in value):
        found = [(item["label"], item["text"]) for item in value]
    elif isinstance(value, list):
        found = [(None, item) for item in value]
    elif "a" in columns and "b" in columns:
        found = [(letter.upper(), columns[letter]) for letter in "abcdefghij" if columns.get(letter) not in (None, "")]
    elif wrong := [columns[key] for key in sorted(columns) if WRONG_OPTION.fullmatch(key) and columns[key] not in (None, "")]:
        found = [(None, item) for item in [text_of(columns, ("correct_answer",), place), *wrong]]
    else:
        raise UserError(f"{place}: no options (columns: {', '.join(columns) or 'none'}); add `choices`, a list of texts")
    if bad := [text for _, text in found if not isinstance(text, (str, int, float)) or not str(text).strip()]:
        raise UserError(f"{place}: an option must be text or a number, found {bad[0]!r:.60}")
    return [(None if label is None else str(label).strip(), " ".join(str(text).split())) for label, text in found]


def _place_of(columns: Row, names: tuple[str, ...], options: Options, place: str) -> int:
    """Which option the first of the named columns means: by label; by number or letter, if that is what it holds; by text."""
    said = " ".join(text_of(columns, names, place).split())
    labels, texts = [label for label, _ in options], [text for _, text in options]
    if said in labels:
        return labels.index(said)
    name = next(name for name in names if columns.get(name) is not None)
    number = int(said) if said.isdigit() else ord(said.upper()) - ord("A") if len(said) == 1 else -1
    counts = labels[0] is None and 0 <= number < len(options)
    if counts and (isinstance(columns[name], int) or name in ("answer_letter", "answer_index")):  # whatever the texts are
        return number
    if said in texts:
        return texts.index(said)
    if counts:
        return number
    letters = [label or chr(ord("A") + number) for number, label in enumerate(labels)]
    named = [number for number, letter in enumerate(letters) if states(said, letter, texts[number], max(letters))]
    if len(named) == 1:  # "B. gas", "(b)", "Gas"
        return named[0]
    raise UserError(f"{place}: {said!r:.60} is none of the options ({', '.join(filter(None, labels)) or f'{len(options)} texts'})")
