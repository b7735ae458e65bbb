"""A command that does not outlive whoever started it: leash.py COMMAND..., in a session of its own, with the starter holding its stdin.

When stdin closes, be it because the starter closed it, ended or was killed, the command and all its children are interrupted as by Ctrl-C,
upon which DVC tidies up behind itself, and killed after STOP_SECONDS. A signal to DVC alone would leave the stage behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

STOP_SECONDS = 10.0  # between asking and killing


def main() -> None:
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGINT, lambda *_: None)  # the group's own; set after the start, so that the command keeps the default

    def watch() -> None:
        sys.stdin.buffer.read()
        os.killpg(0, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            command.wait(STOP_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = command.wait()
    os._exit(code if code >= 0 else 128 - code)  # a thread that waits for stdin would hold up an ordinary exit


if __name__ == "__main__":
    main()
