"""Command lines of the pipeline's modules; arguments are read by `vrpo.console.arguments`, and a mistake is one line with exit code 2."""

from __future__ import annotations

import argparse
import re

from vrpo.console.arguments import Parser


def new_parser(module: str, description: str | None) -> Parser:
    """The parser of `python -m module`."""
    return Parser(prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def setting(text: str) -> str:
    """`section.key=value`, as DVC takes it."""
    if not re.fullmatch(r"[\w.]+=.+", text):
        raise argparse.ArgumentTypeError(f"{text!r:.80} is no section.key=value")
    return text
