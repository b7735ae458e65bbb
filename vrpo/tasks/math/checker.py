"""Worker process of `vrpo.tasks.math.task`: compares answers with math_verify.

It is a script of its own, started by path: hostile input (`9^{9^{9^9}}`) can stall or kill the process that parses it. One JSON
request a line on stdin, one reply a line on stdout; it ends with its stdin. Imports nothing of the package.

Limits count CPU time, so that verdicts do not depend on what else the machine does: a timer interrupts Python code, and the kernel
ends (SIGXCPU) what does not listen to it.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import resource
import signal
import sys
from typing import Any

MEMORY = 2 << 30  # bytes of address space: a number of a billion digits fails instead of filling the machine
SMALLEST_AGREEMENT = 5e-5  # relative: math_verify compares six decimal places, which small numbers have in common whatever they are


class OutOfTime(BaseException):
    """The request has used up its CPU time."""


def check(gold: str, answer: str, same: bool) -> tuple[float | None, str]:
    """Compare two formulas.

    `same` says that both have the same canonical spelling: right, provided that the reference can be parsed.

    Returns:
        (1.0 or 0.0, "") or (None, reason): "gold" the reference cannot be parsed, "error" the parser or the comparison failed.
    """
    try:
        gold_forms = _parse(gold)
    except MemoryError:
        return None, "error"
    except Exception:
        gold_forms = []
    if not gold_forms:
        return None, "gold"
    if same:
        return 1.0, ""
    try:
        answer_forms = _parse(answer)
    except Exception:
        return None, "error"
    import math_verify

    for pair in itertools.product(gold_forms, answer_forms):
        try:
            if math_verify.verify(*pair, timeout_seconds=None, raise_on_error=True) and _agree(*pair):
                return 1.0, ""
        except MemoryError:
            return None, "error"
        except Exception:  # the two cannot be compared (a set with a matrix, say): they are not equal
            continue
    return 0.0, ""


def _parse(text: str) -> list[Any]:
    """What math_verify makes of a formula.

    Three of its helps are off: units, for it takes the variable of `3t` for one, the last number of what it cannot read, and small
    letters for all, for `M` is not `m`.
    """
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    spelling = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False)
    targets = [LatexExtractionConfig(normalization_config=spelling)]
    return parse(rf"\boxed{{{text}}}", extraction_config=targets, parsing_timeout=None, raise_on_error=True)


def _agree(one: Any, other: Any) -> bool:
    """Whether two numbers agree in relation to their size; anything else does."""
    from sympy import Expr

    if not (isinstance(one, Expr) and isinstance(other, Expr) and one.is_number and other.is_number):
        return True
    values = [complex(side.doit().evalf(20)) for side in (one, other)]
    sizes = [abs(value) for value in values]
    return not math.isfinite(sum(sizes)) or abs(values[0] - values[1]) <= SMALLEST_AGREEMENT * max(sizes)


def _load() -> None:
    """Import math_verify, not in the first request's time, and have it keep capital letters, for which it has no setting."""
    import math_verify.parser
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    math_verify.parser.latex2sympy = functools.partial(latex2sympy, conversion_config=ConversionConfig(lowercase_symbols=False))


def within(seconds: float, request: dict[str, Any]) -> tuple[float | None, str]:
    """Like `check`; (None, "timeout") after so many seconds of CPU time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime + seconds) + 2, hard))
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds, 0.5)  # again, should a parser swallow the first
        try:
            return check(**request)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except OutOfTime:
        return None, "timeout"


def _interrupt(*_: Any) -> None:
    raise OutOfTime


def main() -> None:
    """Answer requests until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _interrupt)
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a parser prints must not mix with the replies
    _load()
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps(within(request.pop("seconds"), request)) + "\n")


if __name__ == "__main__":
    main()
