r"""Free-form mathematics (GSM8K, MATH and the like): chat prompts, answers in `\boxed{}`, checked by math_verify.

Answers that are plain integers are compared here; all others go to worker processes (`math_checker.py`), which may
stall or die on hostile input without hurting the caller.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

from vrpo.tasks.boxed import BoxedTask, last_boxed

LONGEST_ANSWER = 1000  # characters in a box; a longer "answer" is wrong without being parsed
WORKERS = 2  # processes that compare, started as they are needed
FEW = 20  # comparisons that one worker makes alone: starting another takes two seconds
DEADLINE = 30.0  # seconds for one comparison, start of the worker included; its own limits are shorter

_SPELLINGS = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\$": "", r"\%": "%", r"\!": "", r"\,": " ", r"\;": " "}
_WHOLE_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}\\]*)\}")
_NUMBER = re.compile(r"([+-]?)((?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)")
_INTEGER = re.compile(r"-?\d+")
_Pair = tuple[str, str | None]  # reference; answer, None where nothing usable was boxed
_Verdict = tuple[float | None, str]  # score; why there is none


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


class MathTask(BoxedTask):
    """Prompts and answer checking for free-form mathematics (see `vrpo.tasks.base` for the interface).

    `unscored` counts, by reason, the comparisons that gave no score: "gold" (reference cannot be parsed), "timeout",
    "hang" (worker had to be killed), "crash" (worker died twice), "error" (parser failed).
    """

    instruction = r"Reason briefly, step by step, and end with: The final answer is \boxed{...}"
    example: ClassVar[dict[str, str]] = {
        "question": "A box holds 12 pens. Tom buys 3 boxes and gives 6 pens away. How many pens are left?",
        "solution": "3 * 12 = 36 pens. 36 - 6 = 30 pens are left.",
        "answer": "30",
    }

    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__(tokenizer)
        self.unscored: Counter[str] = Counter()
        self._workers = [_Worker() for _ in range(WORKERS)]

    def extract(self, response: str) -> str | None:
        r"""Canonical content of the last balanced `\boxed{...}`, None where there is none or it is empty."""
        content = last_boxed(response)
        return (canonical(content) or None) if content is not None and len(content) <= LONGEST_ANSWER else None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the boxed answer equals the reference, 0.0 where it does not or none is boxed, None where unknown.

        Unknown is: the reference cannot be parsed, or comparing failed or took too long (counted in `unscored`).
        """
        pairs = []
        for response, answer in zip(responses, answers, strict=True):
            content = last_boxed(response)
            gold = last_boxed(answer) if r"\boxed{" in answer else answer
            pairs.append((_trim(gold or ""), None if content is None or len(content) > LONGEST_ANSWER else _trim(content)))
        known = self._compare(list(dict.fromkeys(pairs)))
        self.unscored.update(reason for pair in pairs if (reason := known[pair][1]))
        return [known[pair][0] for pair in pairs]

    def close(self) -> None:
        """End the worker processes; a later `verify` starts new ones."""
        for worker in self._workers:
            worker.close()

    def _compare(self, pairs: list[_Pair]) -> dict[_Pair, _Verdict]:
        """Verdicts on different pairs of reference and answer: integers here, all others by the workers."""
        known: dict[_Pair, _Verdict] = {}
        asked: dict[_Pair, dict[str, Any]] = {}
        for gold, answer in pairs:
            canonical_gold, canonical_answer = canonical(gold), canonical(answer or "")
            if _INTEGER.fullmatch(canonical_gold) and (not canonical_answer or _INTEGER.fullmatch(canonical_answer)):
                known[gold, answer] = float(canonical_gold == canonical_answer), ""
            else:
                same = canonical_gold == canonical_answer != ""
                asked[gold, answer] = {"gold": gold, "answer": answer or "", "same": same}
        return known | dict(zip(asked, self._ask(list(asked.values())), strict=True))

    def _ask(self, requests: list[dict[str, Any]]) -> list[_Verdict]:
        """The workers' verdicts, in order."""
        if len(requests) < FEW:
            return [self._workers[0].ask(request) for request in requests]
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def ask(request: dict[str, Any]) -> _Verdict:
            worker = idle.get()
            try:
                return worker.ask(request)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as pool:
            replies = [pool.submit(ask, request) for request in requests]
            try:
                return [reply.result() for reply in replies]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


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
