"""Say what a reward is worth: how repeatable it is, what is left of right and wrong in it, whether it likes length, what that costs.

FILE has one row a line in JSON: `prompt`, `response` and any further columns, which the reward gets by name, as `vrpo score --output` writes
them; 200 responses to 50 prompts or more. Each is scored again and again. --checked names a column that says of some responses whether they
are right: true, false or null. Printed are figures with 95 % intervals, and what to do about them (docs/audit.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vrpo.console.arguments import input_file, output_file, whole
from vrpo.errors import UserError, shown
from vrpo.files import read_lines
from vrpo.own_code import load, naming

OURS = ("reward", "prompts", "responses", "checked", "repeats", "seed")  # arguments of `audit`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--responses", metavar="FILE", type=input_file, required=True, help="a .jsonl file of prompts and responses")
    parser.add_argument("--reward", metavar="FILE.py:NAME", required=True, help="the reward, a function in a file of yours")
    parser.add_argument("--checked", metavar="COLUMN", help="the column that says whether a response is right, where somebody checked")
    parser.add_argument("--repeats", type=whole(1), default=2, help="scorings of each response (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of torch's generator while the reward is asked (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE", type=output_file, help="draw the figures here: .png, .svg or .pdf")


def run(arguments: argparse.Namespace) -> None:
    """Score, print and draw; file and reward are read before anything heavy is imported."""
    with naming("--reward", arguments.reward):
        reward = load(arguments.reward, Path())
    columns = _columns(arguments.responses)
    checked = None
    if arguments.checked is not None:
        if arguments.checked not in columns:
            raise UserError(f"--checked = {arguments.checked!r}: no such column in {arguments.responses}; there are {', '.join(columns)}")
        checked = columns.pop(arguments.checked)
        for value in checked:
            if not isinstance(value, bool | int | float | None):
                raise UserError(f"--checked = {arguments.checked!r}: {shown(value)} in {arguments.responses} is not true, false or null")
    from vrpo.metrics.audit import audit, plot

    prompts, responses = columns.pop("prompt"), columns.pop("response")
    with naming("--reward", arguments.reward):
        found = audit(reward, prompts, responses, checked=checked, repeats=arguments.repeats, seed=arguments.seed, **columns)
    print(found)
    if arguments.plot:
        arguments.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(found).savefig(arguments.plot)


def _columns(path: Path) -> dict[str, list[Any]]:
    """The file's rows by column; what a row lacks is None."""
    lines = read_lines(path)
    for number, row in lines:
        if "prompt" not in row or not isinstance(row.get("response"), str):
            raise UserError(f"{path}:{number}: needs `prompt` and a text `response`; it has {', '.join(row)}")
        if taken := [name for name in row if name in OURS]:
            raise UserError(f"{path}:{number}: a column cannot be called {taken[0]!r}, which the audit itself takes; rename or remove it")
    names = dict.fromkeys(name for _, row in lines for name in row)
    return {name: [row.get(name) for _, row in lines] for name in names}
