r"""Free-form mathematics (GSM8K, MATH and the like): chat prompts, answers in `\boxed{}`, checked by math_verify.

Answers that are plain integers are compared here; all others go to one worker process (`math_checker.py`), which may
stall or die on hostile input without hurting the caller.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import weakref
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

INSTRUCTION = r"Reason briefly, step by step, and end with: The final answer is \boxed{...}"
# One worked example goes before every problem: SmolLM2-135M boxes 14 of 24 GSM8K answers with it, 2 of 24 without.
EXAMPLE = {
    "question": "A box holds 12 pens. Tom buys 3 boxes and gives 6 pens away. How many pens are left?",
    "solution": "3 * 12 = 36 pens. 36 - 6 = 30 pens are left.",
    "answer": "30",
}
LONGEST_ANSWER = 1000  # characters in a box; a longer "answer" is wrong without being parsed
DEADLINE = 30.0  # seconds for one comparison, start of the worker included; its own limits are shorter

_BOX = "\\boxed{"
_SPELLINGS = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\$": "", r"\%": "%", r"\!": "", r"\,": " ", r"\;": " "}
_WHOLE_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}\\]*)\}")
_NUMBER = re.compile(r"([+-]?)((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)")
_INTEGER = re.compile(r"-?\d+")


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


def canonical(answer: str) -> str:
    """One spelling for answers that differ in typography only: `$1,234.0$` and `1234`, `\\dfrac12 ` and `\\frac12`.

    Texts with equal canonical form are equal answers; the reverse is for math_verify to tell.
    """
    text = _trim(answer)
    for spelling, replacement in _SPELLINGS.items():
        text = text.replace(spelling, replacement)
    text = re.sub(r"\\(?:left|right)(?![a-zA-Z])", "", text)
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = whole[1]
    text = re.sub(r"(?<!\w) | (?!\w)", "", " ".join(text.split()))
    number = _NUMBER.fullmatch(text)
    if number and number[2]:
        digits = f"{Decimal(number[2].replace(',', '')):f}"
        digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return f"{'-' if number[1] == '-' and digits != '0' else ''}{digits}"
    return text


class MathTask:
    """Prompts and answer checking for free-form mathematics (see `vrpo.tasks.base` for the interface).

    `unscored` counts, by reason, the comparisons that gave no score: "gold" (reference cannot be parsed), "timeout",
    "hang" (worker had to be killed), "crash" (worker died twice), "error" (parser failed).
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer
        self.unscored: Counter[str] = Counter()
        self._worker = _Worker()

    def prompt(self, question: str) -> str:
        """A worked example and the problem, in the tokenizer's chat format where it has one, as plain text otherwise."""
        turns = [f"{EXAMPLE['question']}\n{INSTRUCTION}", self.demonstration(EXAMPLE), f"{question}\n{INSTRUCTION}"]
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

    def extract(self, response: str) -> str | None:
        r"""Canonical content of the last balanced `\boxed{...}`, None where there is none or it is empty."""
        content = last_boxed(response)
        return (canonical(content) or None) if content is not None and len(content) <= LONGEST_ANSWER else None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the boxed answer equals the reference, 0.0 where it does not or none is boxed, None where unknown.

        Unknown is: the reference cannot be parsed, or comparing failed or took too long (counted in `unscored`).
        """
        known: dict[tuple[str, str | None], tuple[float | None, str]] = {}
        scores = []
        for response, answer in zip(responses, answers, strict=True):
            content = last_boxed(response)
            gold = last_boxed(answer) if _BOX in answer else answer
            pair = (_trim(gold or ""), None if content is None or len(content) > LONGEST_ANSWER else _trim(content))
            if pair not in known:
                known[pair] = self._compare(*pair)
            score, reason = known[pair]
            if score is None:
                self.unscored[reason] += 1
            scores.append(score)
        return scores

    def canonical_response(self, answer: str) -> str:
        """A shortest response that states `answer`."""
        return rf"The final answer is \boxed{{{answer}}}"

    def close(self) -> None:
        """End the worker process; a later `verify` starts a new one."""
        self._worker.close()

    def _compare(self, gold: str, answer: str | None) -> tuple[float | None, str]:
        canonical_gold, canonical_answer = canonical(gold), canonical(answer or "")
        if _INTEGER.fullmatch(canonical_gold) and (not canonical_answer or _INTEGER.fullmatch(canonical_answer)):
            return float(canonical_gold == canonical_answer), ""
        return self._worker.ask({"gold": gold, "answer": answer or "", "same": canonical_gold == canonical_answer != ""})


class _Worker:
    """The checker process: started at the first question, replaced when it dies or stalls, ended with its owner."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> tuple[float | None, str]:
        """Put one request; a worker that died gets one successor, for it may have died of something else."""
        for _ in range(2):
            try:
                process = self._running()
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                if not wait([process.stdout.fileno()], DEADLINE):
                    self.close()
                    return None, "hang"
                if reply := process.stdout.readline():
                    score, reason = json.loads(reply)
                    return score, reason
            except BrokenPipeError:
                pass
            except BaseException:  # interrupted between question and reply: the reply must not meet the next question
                self.close()
                raise
            self.close()
        return None, "crash"

    def close(self) -> None:
        if self._process is not None:
            self._stop()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            # -P: this folder must not be on the path, its math.py would hide Python's
            command = [sys.executable, "-P", str(Path(__file__).with_name("math_checker.py"))]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(command, text=True, encoding="utf-8", **pipes)
            self._stop = weakref.finalize(self, _end, self._process)
        return self._process


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a worker, reap it and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(BrokenPipeError):  # an unread request was still in the buffer
            pipe.close()


def _trim(answer: str) -> str:
    """Take off what surrounds an answer in running text: spaces, dollar signs, a full stop."""
    text = answer.strip()
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    if len(text) > 1 and text[0] == text[-1] == "$" and text[-2] != "\\":
        text = text[1:-1].strip()
    return text
