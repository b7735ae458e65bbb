r"""Multiple-choice science questions (ARC, SciQ, MMLU, GPQA and the like): chat prompts, the right option's letter or text in `\boxed{}`.

Questions end in lines such as `B. copper`; a reference is the line of the right option, or its letter alone, which is all that votes give.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from vrpo.tasks.boxed import BoxedTask, last_boxed

LONGEST_ANSWER = 1000  # characters in a box; more is no answer

_LETTERED = re.compile(r"(?:option |choice )?\(?([A-Za-z])\)?(?:[.):]+\s*(.*))?", re.DOTALL | re.IGNORECASE)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit)\{([^{}]*)\}")


def read_option(text: str) -> tuple[str, str]:
    """Letter and text of an option as somebody states it, either may be empty: `B`, `(B)`, `B. copper`, `copper`, `\\text{B}`."""
    plain = " ".join(_WRAPPED.sub(r"\1", text).replace("$", "").split()).rstrip(". ")
    found = _LETTERED.fullmatch(plain)
    letter, rest = (found[1].upper(), found[2] or "") if found else ("", plain)
    return letter, rest.casefold()


class ScienceTask(BoxedTask):
    """Prompts and answer checking for multiple choice (see `vrpo.tasks.base` for the interface)."""

    instruction = r"Reason briefly, then state the letter of the right option in \boxed{}, as in: The final answer is \boxed{A}"
    example: ClassVar[dict[str, str]] = {
        "question": "Which of these is a metal?\nA. oxygen\nB. copper\nC. sulfur\nD. helium",
        "solution": "Copper conducts electricity and can be drawn into wires, so it is a metal. The other three are not.",
        "answer": "B. copper",
    }

    def extract(self, response: str) -> str | None:
        """The letter of the option in the last box, or its text in lower case where no letter is given; None where nothing is boxed."""
        content = last_boxed(response)
        if content is None or len(content) > LONGEST_ANSWER:
            return None
        letter, text = read_option(content)
        return letter or text or None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the boxed letter, or the boxed text, is the reference's; 0.0 where it is not or nothing is boxed.

        None: the reference is empty, or it is a letter without text and the response a text without letter.
        """
        return [self._compare(self.extract(response), answer) for response, answer in zip(responses, answers, strict=True)]

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        letter, text = read_option(answer)
        return super().canonical_response(letter or text)

    def _compare(self, said: str | None, answer: str) -> float | None:
        letter, text = read_option(answer)
        if not letter and not text:
            return None
        if said is None or (len(said) == 1 and said.isupper()):
            return float(said is not None and said == letter)
        return float(said == text) if text else None


def option_lines(texts: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The lines under a question, `A. ...`, and the same as labels and texts.

    Raises:
        ValueError: there are fewer than two options or more than letters.
    """
    if not 2 <= len(texts) <= 26:
        raise ValueError(f"{len(texts)} options; a question needs 2 to 26")
    choices = [{"label": chr(ord("A") + place), "text": text} for place, text in enumerate(texts)]
    return [f"{choice['label']}. {choice['text']}" for choice in choices], choices
