r"""Free-form mathematics (GSM8K, MATH and the like): chat prompts, answers in `\boxed{}`, checked by math_verify.

Numbers, words and lists of them are compared here (`equality.py`); formulas go to worker processes (`math_checker.py`), which may
stall or die on hostile input without hurting the caller.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar

from vrpo.tasks.boxed import BoxedTask, has_box, last_boxed
from vrpo.tasks.math.equality import Ask, Unknown, canonical, same_answer

LONGEST_ANSWER = 1000  # characters in a box; a longer "answer" is wrong, a longer reference unreadable, without being parsed
WORKERS = 2  # processes that compare, started as they are needed
FEW = 20  # comparisons that one worker makes alone: starting another takes two seconds
SECONDS = 6.0  # of CPU time for one comparison of formulas, so that a busy machine comes to the same verdicts
DEADLINE = 300.0  # seconds on the clock, start of the worker included, after which it must have stalled

_Pair = tuple[str, str]  # reference; answer, empty where nothing usable was boxed
_Verdict = tuple[float | None, str]  # score; why there is none


class MathTask(BoxedTask):
    """Prompts and answer checking for free-form mathematics (see `vrpo.tasks.base` for the interface).

    `unscored` counts, by reason, the comparisons that gave no score: "gold" (reference cannot be read), "timeout",
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

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> str | None:
        r"""Canonical content of the last balanced `\boxed{...}`, None where there is none or it is empty."""
        content = last_boxed(response)
        return (canonical(content) or None) if content is not None and len(content) <= LONGEST_ANSWER else None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the boxed answer equals the reference, 0.0 where it does not or none is boxed, None where unknown.

        Unknown is: the reference cannot be parsed, or comparing failed or took too long (counted in `unscored`).
        """
        pairs = []
        for response, answer in zip(responses, answers, strict=True):
            content = last_boxed(response) or ""
            gold = (last_boxed(answer) or "") if has_box(answer) else answer
            pairs.append((gold, content if len(content) <= LONGEST_ANSWER else ""))
        known = self._compare(list(dict.fromkeys(pairs)))
        self.unscored.update(reason for pair in pairs if (reason := known[pair][1]))
        return [known[pair][0] for pair in pairs]

    def close(self) -> None:
        """End the worker processes; a later `verify` starts new ones."""
        for worker in self._workers:
            worker.close()

    def _compare(self, pairs: list[_Pair]) -> dict[_Pair, _Verdict]:
        """Verdicts on different pairs of reference and answer: what needs no parser here, all others by the workers."""
        known: dict[_Pair, _Verdict] = {}
        hard = []
        for pair in pairs:
            try:
                known[pair] = _verdict(pair, _refuse)
            except _NeedsWorker:
                hard.append(pair)
        return known | dict(zip(hard, self._ask(hard), strict=True))

    def _ask(self, pairs: list[_Pair]) -> list[_Verdict]:
        """The workers' verdicts, in order."""
        if len(pairs) < FEW:
            return [_verdict(pair, self._workers[0].equal) for pair in pairs]
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def ask(pair: _Pair) -> _Verdict:
            worker = idle.get()
            try:
                return _verdict(pair, worker.equal)
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as pool:
            replies = [pool.submit(ask, pair) for pair in pairs]
            try:
                return [reply.result() for reply in replies]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _NeedsWorker(Exception):
    """The pair holds formulas."""


def _refuse(gold: str, answer: str, alike: bool) -> bool:
    raise _NeedsWorker


def _verdict(pair: _Pair, ask: Ask) -> _Verdict:
    if len(pair[0]) > LONGEST_ANSWER:
        return None, "gold"
    try:
        return float(same_answer(*pair, ask)), ""
    except Unknown as unknown:
        return None, str(unknown)


class _Worker:
    """The checker process: started at the first question, replaced when it dies or stalls, ended with its owner."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def equal(self, gold: str, answer: str, alike: bool) -> bool:
        """Whether two formulas are equal; `alike`: both have one canonical spelling.

        Raises:
            Unknown: there is no verdict.
        """
        gold, answer = (text.replace("%", r"\%") for text in (gold, answer))
        score, reason = self.ask({"gold": gold, "answer": answer, "same": alike, "seconds": SECONDS})
        if score is None:
            raise Unknown(reason)
        return score == 1.0

    def ask(self, request: dict[str, Any]) -> _Verdict:
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
            if process.returncode == -signal.SIGXCPU:
                return None, "timeout"
        return None, "crash"

    def close(self) -> None:
        if self._process is not None:
            self._stop()
            self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            # -P: this folder must not be on the path, its math.py would hide Python's
            command = [sys.executable, "-P", str(Path(__file__).with_name("checker.py"))]
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
