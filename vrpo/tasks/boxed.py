r"""What tasks with answers in `\boxed{}` share: finding the box, and prompts with one worked example for instruction-tuned models."""

from __future__ import annotations

import itertools
import re
from typing import Any, ClassVar

from vrpo.tasks.base import Task

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![a-zA-Z])\s*")
_UNBRACED = re.compile(r"(?:\\[a-zA-Z]+(?:\s*\{[^{}]*\})+|\\.|[^\s{}$\\])+")
_GAP = r"(?:[\s$*~]|\\[()\[\],;: !]|\\q?quad(?![a-zA-Z]))*"
_BETWEEN = re.compile(
    rf"{_GAP}(?:[,;&]|,?{_GAP}(?:and|or|\\text\s*\{{\s*(?:and|or)\s*\}}))[&]*{_GAP}(?:\\[a-zA-Z]+\s*|[a-zA-Z]\w*\s*=\s*)?{_GAP}"
)
APART = 80  # most characters between two boxes of one list


def has_box(text: str) -> bool:
    r"""Whether a text has anything in `\boxed` or `\fbox`, finished or not."""
    return bool(_boxes(text))


def last_boxed(text: str) -> str | None:
    r"""What a text states in `\boxed{...}` or `\fbox{...}`, with or without braces; None where there is nothing, or the last is unfinished.

    The last box counts. With those before it that only a comma, "and" or "or" divides from it, it makes a list.
    """
    boxes = _boxes(text)
    if not boxes or boxes[-1][2] is None:
        return None
    stated = [boxes[-1][2]]
    for (_, end, content), (start, *_) in reversed(list(itertools.pairwise(boxes))):
        if content is None or start - end > APART or not _BETWEEN.fullmatch(text[end:start]):
            break
        stated.insert(0, content)
    return ", ".join(dict.fromkeys(stated))


def _boxes(text: str) -> list[tuple[int, int, str | None]]:
    """Start, end and content of every box, innermost ones alone; an unfinished one has no content."""
    found: list[tuple[int, int, str | None]] = []
    for box in _BOX.finditer(text):
        if text[box.end() : box.end() + 1] == "{":
            end = _closing(text, box.end())
            content = None if end is None else text[box.end() + 1 : end]
            if content is not None and _BOX.search(content):
                continue
            found.append((box.start(), len(text) if end is None else end + 1, content))
        elif bare := _UNBRACED.match(text, box.end()):
            content = bare[0].rstrip(".,;:!?*)")
            if re.search(r"\d|\\|^[A-Zb-z]$", content):  # a word behind it: somebody writes about boxes
                found.append((box.start(), box.end() + len(content), content))
    return found


def _closing(text: str, start: int) -> int | None:
    """Where the brace at `start` closes."""
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", text[start:], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return start + brace.start()
    return None


class BoxedTask(Task):
    """Prompts and demonstrations of a task whose answers are boxed.

    Attributes:
        instruction: stands below every question.
        example: a row with `question`, `solution` and `answer`, shown before every question: SmolLM2-135M boxes 14 of 24 GSM8K answers
            with one, 2 of 24 without.
    """

    instruction: str
    example: ClassVar[dict[str, str]]

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    def prompt(self, question: str) -> str:
        """A worked example and the problem, in the tokenizer's chat format where it has one, as plain text otherwise."""
        turns = [f"{self.example['question']}\n{self.instruction}", self.demonstration(self.example), f"{question}\n{self.instruction}"]
        if getattr(self.tokenizer, "chat_template", None):
            messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), turns, strict=True)]
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        starts_with_bos = self.tokenizer is not None and self.tokenizer("")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        bos = self.tokenizer.bos_token if starts_with_bos else ""
        return "{}Problem: {}\nSolution:\n{}\n\nProblem: {}\nSolution:\n".format(bos, *turns)

    def demonstration(self, row: dict[str, Any]) -> str:
        """The row's solution, ending in its boxed answer."""
        solution = (row.get("solution") or "").strip()
        if last_boxed(solution) is not None:
            return solution
        return f"{solution}\n{self.canonical_response(row['answer'])}".strip()

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        return rf"The final answer is \boxed{{{answer}}}"
