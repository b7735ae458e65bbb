"""What every task offers to the pipeline."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Task(Protocol):
    """Turns problems into text and answers into scores. What is defined here, rather than declared, suits tasks of one turn.

    One way of tokenizing is used everywhere: `prompt` returns the complete text, the tokenizer's special tokens (chat marks,
    beginning of text) included, and is encoded with `add_special_tokens=False`; so are responses. Whoever trains on a
    response appends the end-of-text token; responses are decoded with `skip_special_tokens=True`.

    Attributes:
        environment: answers the policy's turns where a response is a dialogue (see `vrpo.rollout.conversation`).
    """

    environment: Callable[[dict[str, Any], list[str]], str | None] | None = None

    def prompt(self, question: str) -> str:
        """The text put before the response."""
        ...

    def demonstration(self, row: dict[str, Any]) -> str | list[str]:
        """A clean completion of a prepared row (see `completion`), without end-of-text token."""
        ...

    def completion(self, response: str, answer: str) -> str | list[str]:
        """Everything after the prompt: the response, or the messages of the dialogue that it is the policy's part of."""
        return response

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> str | None:
        """The final answer in one canonical spelling, so that votes can be counted by equality; None where there is none.

        Args:
            choices: `label` and `text` of the question's options, where it has any.
        """
        ...

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """Whether each response ends in its reference answer: 1.0, 0.0, or None where that cannot be told."""
        ...

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        ...

    def canonical(self, answer: str) -> str:
        """The answer as a vote would state it, so that equal ones are spelled alike."""
        return self.extract(self.canonical_response(answer)) or answer

    def wrong_reference(self, answer: str, answers: Sequence[str], seed: int) -> str:
        """Another reference that `seed` chooses: one of `answers`, which are canonical, or `answer` where they hold no other."""
        own = self.canonical(answer)
        others = [other for other in answers if other != own]
        return others[seed % len(others)] if others else answer

    def details(self, texts: Sequence[Sequence[str]], answers: Sequence[str]) -> dict[str, Any]:
        """What there is to say about several responses to each problem beside accuracy, under a name of its own."""
        return {}


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
