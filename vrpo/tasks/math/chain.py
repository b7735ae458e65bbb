"""Chain arithmetic: left-to-right calculations modulo 10, of one to `max_length` operations.

A question such as `3+5-2*4` is put to the model as a worksheet, `3+5.-2.*4...............:`: a cell for every operation,
a dot where its result belongs, and blank cells up to the longest problem. The answer sheet repeats each operation with
its result filled in, `+58-26*44`, so the running value always stands just before the next operation and the last
digit is the answer. Blank cells keep the distance from a cell to its answer constant: that is what lets a very
small Transformer learn the task in a few hundred steps.

Difficulty is the number of operations: with a slip in one step of five, short problems are easy and long ones rarely right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from vrpo.tasks.base import ProceduralTask
from vrpo.tasks.symbols import character_tokenizer

OPERATIONS = "+-*"
BLANK = "."
HESITATION = "?"  # a writer who suspects the last step; part of the corpus, never needed for an answer
END_OF_QUESTION = ":"
ALPHABET = "0123456789" + OPERATIONS + BLANK + HESITATION + END_OF_QUESTION

_STEP = re.compile(r"([+\-*])(\d)")
_RESPONSE = re.compile(rf"(?:[+\-*]\d\d\{HESITATION}?)+")


def apply(value: int, operation: str, operand: int) -> int:
    """One step, modulo 10."""
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operation] % 10


def parse_question(question: str) -> tuple[int, list[tuple[str, int]]]:
    """Split `3+5-2` into its start value and its steps.

    Raises:
        ValueError: the text is not a chain of digits and operations.
    """
    steps = _STEP.findall(question[1:])
    if not question[:1].isdigit() or not steps or len(question) != 1 + 2 * len(steps):
        raise ValueError(f"not a chain of arithmetic steps: {question!r} (expected something like 3+5-2*4)")
    return int(question[0]), [(operation, int(operand)) for operation, operand in steps]


def work_through(
    question: str, rng: random.Random | None = None, slip_rate: float = 0.0, hesitation_rate: float = 0.0, misread_rate: float = 0.0
) -> str:
    """The answer sheet of a question.

    With `slip_rate` a step gets a wrong result, drawn evenly, and the writer goes on from it; with `hesitation_rate` a
    hesitation mark follows such a step. With `misread_rate` a product is taken for a sum: a mistake that is not chance, and above one half
    the usual result. This is how the base model's corpus gets its mistakes.
    """
    value, steps = parse_question(question)
    sheet = []
    for operation, operand in steps:
        misread = misread_rate > 0 and operation == "*" and rng is not None and rng.random() < misread_rate
        value = apply(value, "+" if misread else operation, operand)
        slipped = rng is not None and rng.random() < slip_rate
        if slipped:
            value = (value + rng.randint(1, 9)) % 10
        mark = HESITATION if slipped and rng.random() < hesitation_rate else ""
        sheet.append(f"{operation}{operand}{value}{mark}")
    return "".join(sheet)


def generate_problems(count: int, seed: int, min_length: int, max_length: int, exclude: set[str]) -> list[dict[str, Any]]:
    """Draw `count` different problems with lengths spread evenly over [min_length, max_length].

    Where too few short problems exist, longer ones take their place. Rows hold `question`, `answer`, `length` and a
    clean `solution`; questions in `exclude` are avoided.

    Raises:
        ValueError: fewer than `count` such problems exist.
    """
    rng = random.Random(f"chain-{seed}")
    possible = sum(10 * 30**length for length in range(min_length, max_length + 1))
    if count > 0.5 * possible - len(exclude):
        raise ValueError(f"{count} different problems of length {min_length} to {max_length} cannot be drawn; ask for fewer or longer ones")
    seen, rows = set(exclude), []
    while len(rows) < count:
        length = rng.randint(min_length, max_length)
        question = str(rng.randint(0, 9)) + "".join(rng.choice(OPERATIONS) + str(rng.randint(0, 9)) for _ in range(length))
        if question in seen:
            continue
        seen.add(question)
        solution = work_through(question)
        rows.append({"question": question, "answer": solution[-1], "length": length, "solution": solution})
    return rows


class ChainTask(ProceduralTask):
    """Prompts and exact answer checking for chain arithmetic (see `vrpo.tasks.base.ProceduralTask`).

    Args:
        max_length, min_length: operations of a problem.
        hesitation_rate: share of slips in the corpus that a hesitation mark follows.
        misread_rate: share of products in the corpus that are taken for sums.
    """

    name = "chain"

    def __init__(self, max_length: int = 8, min_length: int = 1, hesitation_rate: float = 0.0, misread_rate: float = 0.0) -> None:
        self.max_length, self.min_length, self.hesitation_rate, self.misread_rate = max_length, min_length, hesitation_rate, misread_rate

    def generate(self, count: int, seed: int, exclude: set[str]) -> list[dict[str, Any]]:
        """See `generate_problems`."""
        return generate_problems(count, seed, self.min_length, self.max_length, exclude)

    def write(self, row: dict[str, Any], rng: random.Random, slip_rate: float) -> str:
        """See `work_through`; a writer without slips misreads nothing either."""
        return work_through(row["question"], rng, slip_rate, self.hesitation_rate, self.misread_rate if slip_rate else 0.0)

    def new_tokenizer(self) -> Any:
        """See `new_tokenizer`."""
        return new_tokenizer()

    def prompt(self, question: str) -> str:
        """The worksheet of a question.

        Raises:
            ValueError: the question is malformed or longer than `max_length` operations.
        """
        value, steps = parse_question(question)
        if len(steps) > self.max_length:
            raise ValueError(f"{question!r} has {len(steps)} operations, more than prepare.max_length = {self.max_length}")
        cells = "".join(f"{operation}{operand}{BLANK}" for operation, operand in steps)
        return f"{value}{cells}{BLANK * 3 * (self.max_length - len(steps))}{END_OF_QUESTION}"

    def demonstration(self, row: dict[str, Any]) -> str:
        """A clean answer sheet for a row."""
        return work_through(row["question"])

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> str | None:
        """The last result of a well-formed answer sheet, None for anything else."""
        sheet = response.strip()
        return sheet.rstrip(HESITATION)[-1] if _RESPONSE.fullmatch(sheet) else None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the final answer equals the reference, 0.0 where not, None where the reference is no digit."""
        return [
            float(self.extract(response) == answer) if re.fullmatch(r"\d", answer) else None
            for response, answer in zip(responses, answers, strict=True)
        ]

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        return f"+0{answer}"


def new_tokenizer() -> Any:
    """A character-level tokenizer over the task's 16 symbols."""
    return character_tokenizer(ALPHABET)
