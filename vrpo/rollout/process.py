"""An engine in a process of its own: one JSON line is answered with another, and the process ends with this one."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vrpo.errors import UserError, shown

SILENT_SECONDS = 1800.0  # an engine that takes longer over one answer hangs: large ones need minutes to start
LAST_WORDS = 4000  # bytes of its log


class EngineDied(Exception):
    """The process is gone, or says nothing. The message has how, and the last line of its log."""


class EngineProcess:
    """A program that `vrpo.rollout.engines.vllm_worker.serve` runs in.

    Args:
        command: starts it; in a session of its own, so that an end takes along what it has started.
        folder: where it runs; its log goes there.
        environment: its variables.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.log = folder / "engine.log"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(command, stderr=log, cwd=folder, env=environment, **pipes)
        except OSError as error:
            raise EngineDied(str(error)) from None
        self.end = weakref.finalize(self, _end, self.process)  # at the latest when this process exits
        self.unread = b""

    def ask(self, name: str, *arguments: Any) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            EngineDied: there is none.
            UserError: it is none.
        """
        try:
            self.process.stdin.write(json.dumps({"do": name, "with": arguments}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        line = self._line()
        with suppress(ValueError):
            if isinstance(answer := json.loads(line), dict):
                return answer
        raise UserError(f"generation.engine: it answered {shown(line.decode(errors='replace'))}, which is no JSON object")

    def _line(self) -> bytes:
        output, deadline = self.process.stdout.fileno(), time.monotonic() + SILENT_SECONDS
        while b"\n" not in self.unread:
            if select.select([output], [], [], 1.0)[0]:
                if not (part := os.read(output, 1 << 20)):
                    raise self._died()
                self.unread += part
            elif self.process.poll() is not None:  # though a child of its holds the pipe
                raise self._died()
            elif time.monotonic() > deadline:
                raise self._died(f"silent for {SILENT_SECONDS:.0f} seconds")
        line, self.unread = self.unread.split(b"\n", 1)
        return line

    def _died(self, how: str = "") -> EngineDied:
        if not how:
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(10)
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self.end()
        lines = [line for line in self.last_words().splitlines() if line.strip()]
        return EngineDied(f"{how or 'it closed its output'}; its log ends: {lines[-1].strip()}" if lines else how or "it closed its output")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-LAST_WORDS:].decode(errors="replace")


def _end(process: subprocess.Popen) -> None:
    """Kill a process's group, and leave no zombie."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with suppress(BrokenPipeError):  # a question that it has not read
        process.stdin.close()
