"""What every task offers to the pipeline, and what a domain is made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vrpo.tasks import rows


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
        return self.canonical_response(row["answer"])

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
        return answer

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

    def write(self, row: dict[str, Any], rng: random.Random, slip_rate: float) -> str | list[str]:
        """What a writer who slips at this rate responds to a generated row: this is how the base model's corpus gets its mistakes."""
        ...

    def new_tokenizer(self) -> Any:
        """A tokenizer over the task's own symbols."""
        ...


PROCEDURAL = "procedural"  # the data set that stands for a domain's own problems


@dataclass(frozen=True)
class Measures:
    """What tells responses of a domain apart beside accuracy: `Task.details` puts it under `name`, every evaluation holds it.

    Attributes:
        name: of the dictionary among the task's details.
        title, caption: of the report's section, a table with a row a method; the caption may hold {percent}, the level of intervals.
        columns: metric by heading: a share between 0 and 1 in the dictionary, shown in percent; shares by number (pass^k), of which the
            largest number's is shown and stands for {} in the heading; or a metric that every evaluation has, such as `response_length`.
        shares: those metrics that are averaged over seeds in the report's summary, with intervals.
    """

    name: str
    title: str
    caption: str
    columns: Mapping[str, str]
    shares: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """Everything that a kind of problems brings. A folder `vrpo/tasks/<name>/` defines one as `DOMAIN`, a file of one's own under any name.

    The module that defines it is imported to check parameters, so it must import nothing heavy: classes whose modules need torch come
    through functions that import them. What is called here gets, by name, those settings that it has parameters for: the keys of
    `prepare`, `max_turns`, `hesitation_rate`, `misread_rate` and `tokenizer` (the policy's; None where no model is loaded).

    Attributes:
        title: its own problems, in reports: "chain arithmetic".
        procedural: makes the task that generates problems, where `prepare.dataset` is "procedural"; None: there is none.
        on_rows: makes the task on the rows of a data set; None: there is none.
        rows_title: problems of a data set, in reports; empty: as `title`.
        read_row: (columns, place, seed) -> row, see `vrpo.tasks.rows.read_row`.
        oracle: (tokenizer) -> success chances of the procedural task's states for method `oracle`, see `vrpo.algorithms.oracle`.
        voted_on: whether responses have final answers that votes can be counted by.
        rewards_turns: whether its tasks have `turn_rewards` (reward.per_turn).
        measures: beside accuracy.
    """

    title: str
    procedural: Callable[..., ProceduralTask] | None = None
    on_rows: Callable[..., Task] | None = None
    rows_title: str = ""
    read_row: Callable[[rows.Row, str, int], rows.Row] = field(default=rows.read_row)
    oracle: Callable[[Any], Any] | None = None
    voted_on: bool = True
    rewards_turns: bool = False
    measures: Measures | None = None

    def titled(self, dataset: str) -> str:
        """What the problems of `prepare.dataset` are called."""
        return self.title if dataset == PROCEDURAL else self.rows_title or self.title
