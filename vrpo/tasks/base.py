"""What every task offers to the pipeline."""

from __future__ import annotations

import random
from typing import Any, Protocol


class Task(Protocol):
    """Turns problems into text and answers into scores.

    One way of tokenizing is used everywhere: `prompt` returns the complete text, the tokenizer's special tokens (chat marks,
    beginning of text) included, and is encoded with `add_special_tokens=False`; so are responses. Whoever trains on a
    response appends the end-of-text token; responses are decoded with `skip_special_tokens=True`.
    """

    def prompt(self, question: str) -> str:
        """The text put before the response."""
        ...

    def demonstration(self, row: dict[str, Any]) -> str:
        """A clean response to a prepared row, without end-of-text token."""
        ...

    def extract(self, response: str) -> str | None:
        """The final answer in one canonical spelling, so that votes can be counted by equality; None where there is none."""
        ...

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """Whether each response ends in its reference answer: 1.0, 0.0, or None where that cannot be told."""
        ...

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        ...


class ProceduralTask(Task, Protocol):
    """A task that makes its own problems, and the corpus from which a small model learns them from scratch."""

    name: str  # goes into the problems' ids and source

    def generate(self, count: int, seed: int, exclude: set[str]) -> list[dict[str, Any]]:
        """`count` different problems whose questions are not in `exclude`: rows with `question`, `answer`, a clean `solution` and more.

        Raises:
            ValueError: fewer than `count` such problems exist.
        """
        ...

    def write(self, row: dict[str, Any], rng: random.Random, slip_rate: float, hesitation_rate: float) -> str:
        """What a writer who slips at this rate responds to a generated row: this is how the base model's corpus gets its mistakes."""
        ...

    def new_tokenizer(self) -> Any:
        """A tokenizer over the task's own symbols."""
        ...
