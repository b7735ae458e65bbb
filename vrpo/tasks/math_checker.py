"""Worker process of `vrpo.tasks.math`: compares answers with math_verify.

It is a script of its own, started by path: math_verify's time limits need the main thread and its SIGALRM, and hostile
input (`9^{9^{9^9}}`) can stall or kill the process that parses it. One JSON request a line on stdin, one reply a line on
stdout; it ends with its stdin. Imports nothing of the package.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys

PARSE_SECONDS = 3  # per side; SIGALRM knows whole seconds only
COMPARE_SECONDS = 3
MEMORY = 2 << 30  # bytes of address space: a number of a billion digits fails instead of filling the machine


def check(gold: str, answer: str, same: bool) -> tuple[float | None, str]:
    """Compare the content of two boxes.

    `same` says that both have the same canonical spelling: right, provided that the reference can be parsed.

    Returns:
        (1.0 or 0.0, "") or (None, reason): "gold" the reference cannot be parsed, "timeout" comparing takes too long,
        "error" the parser or the comparison failed.
    """
    import math_verify
    from math_verify.errors import TimeoutException

    def parse(text: str) -> list:
        return math_verify.parse(rf"\boxed{{{text}}}", parsing_timeout=PARSE_SECONDS, raise_on_error=True)

    try:
        gold_forms = parse(gold)
    except (Exception, TimeoutException):
        gold_forms = []
    if not gold_forms:
        return None, "gold"
    if same:
        return 1.0, ""
    try:
        answer_forms = parse(answer)
    except TimeoutException:
        return None, "timeout"
    except Exception:
        return None, "error"
    timed_out = False
    for pair in itertools.product(gold_forms, answer_forms):
        try:
            if math_verify.verify(*pair, timeout_seconds=COMPARE_SECONDS, raise_on_error=True):
                return 1.0, ""
        except TimeoutException:
            timed_out = True
        except MemoryError:
            return None, "error"
        except Exception:  # the two cannot be compared (a set with a matrix, say): they are not equal
            continue
    return (None, "timeout") if timed_out else (0.0, "")


def main() -> None:
    """Answer requests until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a parser prints must not mix with the replies
    for line in sys.stdin:
        replies.write(json.dumps(check(**json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
