r"""What tasks with answers in `\boxed{}` share: finding the box, and prompts with one worked example for instruction-tuned models."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from vrpo.tasks.base import Task

_BOX = "\\boxed{"


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` whose braces balance, None where there is none."""
    start = text.rfind(_BOX)
    while start >= 0:
        depth = 0
        for brace in re.finditer(r"\\.|[{}]", text[start + len(_BOX) - 1 :], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                return text[start + len(_BOX) :][: brace.start() - 1]
        start = text.rfind(_BOX, 0, start)
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
