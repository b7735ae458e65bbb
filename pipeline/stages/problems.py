"""Read questions with one right answer from JSONL files, folders and the hub, and bring them into one form.

Sets and their mirrors name columns differently; here upper case and spaces do not matter, and the first that is there counts:

    question   question, problem, query
    answer     answer, gold, final_answer, expected_answer, ground_truth; "reasoning #### 72" (GSM8K) is taken apart; a list is joined
    options    choices, options (texts; labels and texts, as two lists or pairs; letters to texts); columns A, B, C, D; or the wrong ones
               alone: distractor1.. (SciQ), incorrect_answer_1.. (GPQA)
    right one  answer_letter, answerkey, correct_answer, then as for answer, answer_index: a label, a letter, a text, or a place from 0 on
    solution   solution, explanation, support

Science questions end in their options as lettered lines, shuffled by seed and question; their answer is the line of the right one.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from pathlib import Path
from typing import Any

from pipeline.files import left_behind, read_lines
from vrpo.errors import OutOfReach, UserError

QUESTION = ("question", "problem", "query")
ANSWER = ("answer", "gold", "final_answer", "expected_answer", "ground_truth")
RIGHT_OPTION = ("answer_letter", "answerkey", "correct_answer", *ANSWER, "answer_index")
SOLUTION = ("solution", "explanation", "support")
WRONG_OPTION = re.compile(r"(?:distractor|incorrect_answer)_?\d+")
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")  # no tokenizer and no file takes it
DATA_SUFFIXES = (".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".zip")

Row = dict[str, Any]
Options = list[tuple[str | None, str]]  # label in the source, text


def read_problems(dataset: str, subset: str | None, split: str, domain: str, seed: int) -> list[Row]:
    """All rows of a source, see `read_placed`."""
    return [row for _, row in read_placed(dataset, subset, split, domain, seed)]


def read_placed(dataset: str, subset: str | None, split: str, domain: str, seed: int) -> list[tuple[str, Row]]:
    """Places and rows of a source: `id`, `question`, `answer`, `source`, `licence`; `solution`, `label` and `choices` where there are any.

    Args:
        dataset: a .jsonl file, a folder of data files, or a hub id.
        subset, split: of a folder or hub id.
        domain: "math" or "science".
        seed: of the options' order.

    Raises:
        UserError: the source is missing or malformed; file and line, or row, are named.
    """
    path = Path(dataset)
    if path.suffix == ".jsonl":
        raw = [(f"{path}:{number}", row) for number, row in read_lines(path)]
    elif path.suffix in DATA_SUFFIXES or path.is_file():
        raise UserError(f"{dataset}: not a format this stage reads; convert it to .jsonl, or name the folder that holds it")
    else:
        raw = [(f"{dataset} [{split}] row {number}", row) for number, row in enumerate(_load_with_datasets(dataset, subset, split))]
    name = path.stem if path.suffix == ".jsonl" else dataset
    return [(place, normalise(row, place, name, domain, seed)) for place, row in raw]


def _load_with_datasets(dataset: str, subset: str | None, split: str) -> list[Row]:
    """Read a hub id, or a local folder of data files, through the `datasets` library."""
    if missing := left_behind(dataset):
        raise UserError(missing)
    import datasets

    if not Path(dataset).is_dir():
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        from vrpo.models.loading import hub_reachable

        try:
            validate_repo_id(dataset)
        except HFValidationError:
            raise UserError(f"{dataset}: no such file or folder, and no hub id; correct prepare.dataset or prepare.test_dataset") from None
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


def normalise(raw: Row, place: str, name: str, domain: str, seed: int = 0) -> Row:
    """One row in the common form; errors name `place`, `name` stands in for a missing id and source."""
    columns = {str(key).lower().replace(" ", "_"): value for key, value in raw.items()}
    for key, value in columns.items():
        if half := LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False, default=str)):
            raise UserError(f"{place}: `{key}` holds half a character ({half[0]!r}); correct or remove the row")
    question = _text(columns, QUESTION, place)
    solution = next((columns[key] for key in SOLUTION if columns.get(key)), "")
    solution = "\n".join(map(str, solution)) if isinstance(solution, list) else str(solution).strip()
    row: Row = {}
    if domain == "science":
        question, answer, row = _with_options(columns, question, place, seed)
    else:
        answer = _text(columns, ANSWER, place)
        if "####" in answer:  # GSM8K: the reasoning, with calculator notes, then the answer
            reasoning, _, answer = (part.strip() for part in answer.rpartition("####"))
            solution = solution or re.sub(r"<<[^<>]*>>", "", reasoning)
            answer = re.sub(r"(?<=\d),(?=\d{3})", "", answer)
            if not answer:
                raise UserError(f"{place}: no answer after ####; complete or remove the row")
        if columns.get("label") is not None:
            row["label"] = _text(columns, ("label",), place)
    digest = hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:12]
    identity = str(columns["id"] if columns.get("id") not in (None, "") else f"{name}-{digest}")
    licence = str(columns.get("licence") or columns.get("license") or "unknown")
    head = {"id": identity, "question": question, "answer": answer} | ({"solution": solution} if solution else {})
    return head | row | {"source": str(columns.get("source") or name), "licence": licence}


def _with_options(columns: Row, question: str, place: str, seed: int) -> tuple[str, str, Row]:
    """Question with shuffled options below, the right one's line; `choices` and, where the row has one, the noisy `label`'s line."""
    from vrpo.tasks.science.task import option_lines

    options = _options(columns, place)
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
    row = {"choices": choices} | ({} if noisy is None else {"label": lines[order.index(noisy)]})
    return "\n".join([question, *lines]), lines[order.index(right)], row


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
        found = [(None, item) for item in [_text(columns, ("correct_answer",), place), *wrong]]
    else:
        raise UserError(f"{place}: no options (columns: {', '.join(columns) or 'none'}); add `choices`, a list of texts")
    if bad := [text for _, text in found if not isinstance(text, (str, int, float)) or not str(text).strip()]:
        raise UserError(f"{place}: an option must be text or a number, found {bad[0]!r:.60}")
    return [(None if label is None else str(label).strip(), " ".join(str(text).split())) for label, text in found]


def _place_of(columns: Row, names: tuple[str, ...], options: Options, place: str) -> int:
    """Which option the first of the named columns means: by label; by number or letter, if that is what it holds; by text."""
    from vrpo.tasks.science.task import states

    said = " ".join(_text(columns, names, place).split())
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


def _text(columns: Row, names: tuple[str, ...], place: str) -> str:
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
