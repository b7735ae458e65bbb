"""Two-digit sums for real weights: a task that a small language model half knows, with responses of a few tokens.

A question such as `47 + 38` is put to the model as `47 + 38 = `, the form in which it has met sums before, and the first integer of its response is
the answer. The 8,100 pairs of two-digit numbers are all the questions there are; difficulty is the number of carries.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from vrpo.tasks.base import Domain, ProceduralTask
from vrpo.tasks.symbols import character_tokenizer

NUMBERS = range(10, 100)
END_OF_QUESTION = " = "  # its last space too: digits are tokens, so that a response need not begin with one

_INTEGER = re.compile(r"-?[0-9]+")


class AdditionTask(ProceduralTask):
    """Prompts and exact answer checking for two-digit sums (see `vrpo.tasks.base.ProceduralTask`)."""

    name = "addition"

    def generate(self, count: int, seed: int, exclude: set[str]) -> list[dict[str, Any]]:
        """`count` different sums whose questions are not in `exclude`, all of them equally likely.

        Rows hold `question`, `answer`, `length` (carries, 0 to 2) and a clean `solution`.

        Raises:
            ValueError: fewer than `count` such sums exist.
        """
        left = [(a, b) for a in NUMBERS for b in NUMBERS if f"{a} + {b}" not in exclude]
        if count > len(left):
            raise ValueError(f"{count} different two-digit sums cannot be drawn, {len(left)} are left; ask for fewer")
        return [_row(a, b) for a, b in random.Random(f"addition-{seed}").sample(left, count)]

    def write(self, row: dict[str, Any], rng: random.Random, slip_rate: float) -> str:
        """The sum; a writer who slips is ten off, as if a carry had been lost or made up."""
        return str(int(row["answer"]) + (rng.choice((-10, 10)) if rng.random() < slip_rate else 0))

    def new_tokenizer(self) -> Any:
        """A character-level tokenizer over the task's own symbols."""
        return character_tokenizer("0123456789 +=")

    def prompt(self, question: str) -> str:
        """The left side of an equation."""
        return question + END_OF_QUESTION

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> str | None:
        """The first integer as it is written; None where there is none."""
        found = _INTEGER.search(response)
        return found[0] if found else None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the first integer of a response is that of its reference, 0.0 where not, None where the reference has none."""
        references = map(self.extract, answers)
        return [
            None if reference is None else float(self.extract(response) == reference)
            for response, reference in zip(responses, references, strict=True)
        ]


def _row(a: int, b: int) -> dict[str, Any]:
    carries = [a % 10 + b % 10 > 9, a + b > 99]
    return {"question": f"{a} + {b}", "answer": str(a + b), "length": sum(carries), "solution": str(a + b)}


DOMAIN = Domain(title="two-digit sums", procedural=AdditionTask)
