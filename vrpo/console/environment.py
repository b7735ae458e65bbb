"""What every command sets before it starts: no telemetry, and output that no terminal refuses."""

from __future__ import annotations

import io
import sys

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def speak_safely() -> None:
    """Let a terminal that lacks a character show its code: the work is done, its last line must not end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
