"""VRPO and its relatives on language models: sample, score, measure."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from vrpo import __version__
from vrpo.console.arguments import Parser
from vrpo.console.environment import TELEMETRY_OFF, speak_safely
from vrpo.errors import UserError

MISTAKE, INTERRUPTED = 2, 130  # exit codes


def commands() -> dict[str, str]:
    """What each command does, by name: the docstrings of the modules here that define `add_arguments`.

    They are read from the text: of all commands only the one that is asked for is imported.
    """
    texts = {file.stem: file.read_text(encoding="utf-8") for file in sorted(Path(__file__).parent.glob("*.py"))}
    return {name: ast.get_docstring(ast.parse(text)) or "" for name, text in texts.items() if "\ndef add_arguments(" in text}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command: a mistake of the user's is one line and exit code 2, Ctrl-C exit code 130."""
    speak_safely()
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(next((word for word in argv if not word.startswith("-")), None)).parse_args(argv)
    for key, value in TELEMETRY_OFF.items():
        os.environ.setdefault(key, value)
    if not sys.stderr.isatty():  # a bar that cannot move is a page of lines
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        arguments.run(arguments)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _parser(chosen: str | None) -> Parser:
    """Knows all commands by name, and the arguments of the chosen one."""
    raw = argparse.RawDescriptionHelpFormatter
    there = commands()
    lines = [f"  {name:{max(map(len, there))}}  {text.partition(chr(10))[0]}" for name, text in there.items()]
    parser = Parser(prog="vrpo", description="\n".join([__doc__, "", *lines]), formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"vrpo {__version__}")
    known = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, help="`vrpo COMMAND --help` shows what it takes")
    for name, text in there.items():
        command = known.add_parser(name, description=text, formatter_class=raw)
        if name == chosen:
            module = import_module(f"vrpo.console.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    main()
