"""Exact values in chain arithmetic: how likely a half-written answer sheet is to end right.

A writer who slips in one step of a hundred goes on from the wrong result, and may come back by luck: values follow from a backward
recursion over the ten digits. The slip rate is that of the responses themselves; a sheet that broke the form counts as lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vrpo.data.batch import Experience
from vrpo.tasks.math.chain import BLANK, HESITATION, apply, parse_question


def success_chances(question: str, slip_rate: float) -> list[list[float]]:
    """f[i][v]: the chance of a right answer with i steps done and v as the running value; a slip draws one of nine wrong digits evenly."""
    value, steps = parse_question(question)
    for operation, operand in steps:
        value = apply(value, operation, operand)
    chances = [[float(digit == value) for digit in range(10)]]
    for operation, operand in reversed(steps):
        after, total = chances[0], sum(chances[0])
        right = [after[apply(digit, operation, operand)] for digit in range(10)]
        chances.insert(0, [(1 - slip_rate) * r + slip_rate / 9 * (total - r) for r in right])
    return chances


def read_sheet(question: str, sheet: Sequence[str]) -> tuple[list[tuple[int, int] | None], list[bool]]:
    """The state (steps done, running value) before each token of a sheet, None once the form is broken; and whether each result was right."""
    value, steps = parse_question(question)
    states: list[tuple[int, int] | None] = []
    results: list[bool] = []
    done, place, intact = 0, 0, True  # place within a step: 0 operation, 1 operand, 2 result
    for token in sheet:
        states.append((done, value) if intact else None)
        if not intact or (place == 0 and token == HESITATION and done):
            continue
        if done == len(steps):
            intact = token.startswith("<")  # the end of the text
        elif place < 2:
            intact = token == (steps[done][0], str(steps[done][1]))[place]
            place += 1
        elif token.isdigit():
            results.append(int(token) == apply(value, *steps[done]))
            value, done, place = int(token), done + 1, 0
        else:
            intact = False
    return states, results


class ChainOracle:
    """Chance of success in each state of a batch of responses, for `vrpo.algorithms.oracle.Oracle`.

    Args:
        tokenizer: the task's (one token a character).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, experience: Experience) -> Tensor:
        """float32 [B, T], 0 where masked."""
        mask = experience.response_mask
        questions = ["".join(self._tokens(ids[m])).rstrip(":").replace(BLANK, "") for ids, m in self._rows(experience, "prompt")]
        sheets = [read_sheet(q, self._tokens(ids[m])) for q, (ids, m) in zip(questions, self._rows(experience, "response"), strict=True)]
        results = [right for _, found in sheets for right in found]
        slip_rate = 1 - sum(results) / max(len(results), 1)
        values = torch.zeros(mask.shape)
        for row, (question, (states, _)) in enumerate(zip(questions, sheets, strict=True)):
            chances = success_chances(question, slip_rate)
            values[row, mask[row]] = torch.tensor([0.0 if state is None else chances[state[0]][state[1]] for state in states])
        return values

    def _rows(self, experience: Experience, name: str) -> zip:
        return zip(getattr(experience, f"{name}s"), getattr(experience, f"{name}_mask"), strict=True)

    def _tokens(self, ids: Tensor) -> list[str]:
        return self.tokenizer.convert_ids_to_tokens(ids.tolist())
