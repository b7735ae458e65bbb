"""What every task offers to the pipeline."""

from __future__ import annotations

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
