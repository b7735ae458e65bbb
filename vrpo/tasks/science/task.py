r"""Multiple-choice science questions (ARC, SciQ, MMLU, GPQA and the like): chat prompts, the right option's letter or text in `\boxed{}`.

Questions end in lines such as `B. copper`; a reference is the line of the right option, or its letter alone, which is all that votes give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from vrpo.tasks.answers import THOUSANDS, fold, spell, unwrapped
from vrpo.tasks.boxed import BoxedTask, last_boxed

LONGEST_ANSWER = 1000  # characters in a box; more is no answer

_SAID = re.compile(
    r"(?:the |my )?(?:(?:correct|right|final|best) )*(?:answer|option|choice)(?: is)?\s*:?\s*(?:option |choice )?", re.IGNORECASE
)
_LETTERED = re.compile(r"[(\[<]?([A-Za-z])[)\]>]?(?:[.):\]]+\s*(.*))?", re.DOTALL)
_BESIDE = re.compile(r"(?P<letter>[A-Za-z])(?:\s*[-,=]\s*|\s+)(?P<text>.+)|(?P<before>.+?)\s*\((?P<behind>[A-Za-z])\)", re.DOTALL)
_MARKUP = re.compile(r"\\(?:rm|bf|it|sf|tt)(?![a-zA-Z])|\\[()\[\]]|[{}_$\"]")
USUAL_OPTIONS = "D"  # letters up to this, and to the reference's own, are taken for options


def plain(text: str) -> str:
    r"""A text without LaTeX and Markdown, in small letters where capitals tell nothing apart: `\text{CO_{2}}` and `CO₂` are `CO2`."""
    bare = re.sub(r"\\frac\s*(?:\{(\w+)\}|(\d))\s*(?:\{(\w+)\}|(\d))", r"\1\2/\3\4", unwrapped(spell(re.sub(r"\*\*|`", "", text))))
    bare = re.sub(r"\\(?:times|cdot)\s*|(?<=\d)\s*[x*]\s*(?=10\b)", "x", bare)
    bare = re.sub(rf"(?<![\d.,]){THOUSANDS}(?!,?\d)", lambda found: found[0].replace(",", ""), _MARKUP.sub("", bare))
    bare = " ".join(re.sub(r"\^(?=\d*[+-](?!\w))|\\(?=[a-zA-Z])", "", bare).split())  # charges of ions; names of functions
    while len(bare) > 2 and bare[0] + bare[-1] in ("**", "''", "<>", "[]"):
        bare = bare[1:-1].strip()
    return re.sub(r"\w+", lambda word: fold(word[0]), bare.rstrip(". "))


def read_option(text: str) -> tuple[str, str]:
    r"""Letter and text of an option as somebody states it, either may be empty: `B`, `(B)`, `B. copper`, `copper`, `\text{B}`."""
    bare = plain(text)
    said = _SAID.match(bare)
    bare = bare[said.end() :] if said and said.end() < len(bare) else bare
    found = _LETTERED.fullmatch(bare)
    return (found[1].upper(), found[2] or "") if found else ("", bare)


def states(content: str, letter: str, text: str, last: str) -> bool:
    """Whether a box names the option with this letter and text, one of those from A to `last`, either of which may be empty.

    Its whole text comes before a letter (`E. coli`), a letter that is surely an option's before a text (option `A` is "C").
    """
    bare, own = plain(content), plain(text)
    said_letter, said_text = read_option(content)
    if own and _close_up(bare) == _close_up(own) and not (len(bare) == 1 and bare.isalpha() and bare.upper() <= last):
        return True
    if said_letter:
        return said_letter == letter
    if (found := _BESIDE.fullmatch(said_text)) and (found["letter"] or found["behind"]).upper() == letter:
        said_text = (found["text"] or found["before"]).removeprefix("(").removesuffix(")")
    return bool(own) and _close_up(said_text) == _close_up(own)


def _close_up(text: str) -> str:
    """Without the spaces beside digits and signs: `5 m/s` is `5m/s`."""
    return re.sub(r"\s*([^\sA-Za-z])\s*", r"\1", text)


class ScienceTask(BoxedTask):
    """Prompts and answer checking for multiple choice (see `vrpo.tasks.base` for the interface)."""

    instruction = r"Reason briefly, then state the letter of the right option in \boxed{}, as in: The final answer is \boxed{A}"
    example: ClassVar[dict[str, str]] = {
        "question": "Which of these is a metal?\nA. oxygen\nB. copper\nC. sulfur\nD. helium",
        "solution": "Copper conducts electricity and can be drawn into wires, so it is a metal. The other three are not.",
        "answer": "B. copper",
    }

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> str | None:
        """The letter of the option that the last box names, else what it says; None where nothing is boxed.

        Which letters and texts are options is known only with the question's `choices`.
        """
        content = last_boxed(response)
        if content is None or len(content) > LONGEST_ANSWER:
            return None
        last = max((choice["label"] for choice in choices), default="Z")
        named = [choice["label"] for choice in choices if states(content, choice["label"], choice["text"], last)]
        if len(named) == 1:
            return named[0]
        letter, text = read_option(content)
        return (letter if letter <= last else "") or text or plain(content) or None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the boxed letter, or the boxed text, is the reference's; 0.0 where it is not or nothing is boxed.

        None: the reference is empty, or it is a letter without text and the response a text without letter.
        """
        return [self._compare(last_boxed(response), answer) for response, answer in zip(responses, answers, strict=True)]

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        letter, text = read_option(answer)
        return super().canonical_response(letter or text)

    def _compare(self, content: str | None, answer: str) -> float | None:
        letter, text = read_option(answer)
        if not letter and not text:
            return None
        if content is None or not plain(content) or len(content) > LONGEST_ANSWER:
            return 0.0
        if not text and not read_option(content)[0]:
            return None
        return float(states(content, letter, text, max(letter, USUAL_OPTIONS)))


def option_lines(texts: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """The lines under a question, `A. ...`, and the same as labels and texts.

    Raises:
        ValueError: there are fewer than two options or more than letters.
    """
    if not 2 <= len(texts) <= 26:
        raise ValueError(f"{len(texts)} options; a question needs 2 to 26")
    choices = [{"label": chr(ord("A") + place), "text": text} for place, text in enumerate(texts)]
    return [f"{choice['label']}. {choice['text']}" for choice in choices], choices
