"""Processes that do not outlive whoever started them.

A command: leash.py COMMAND..., in a session of its own, with the starter holding its stdin. When stdin closes, be it because the starter
closed it, ended or was killed, or when the leash is asked to end, the command and all its children are interrupted as by Ctrl-C, upon which
DVC tidies up behind itself, and killed after STOP_SECONDS. A signal to DVC alone would leave the stage behind.

Worker processes: `workers`.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

STOP_SECONDS = 10.0  # between asking and killing


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, so that it ends what it started; nohup's choice stays."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """A pool of processes that end at once when the block is left by an exception, and when this process dies, however it does."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent's to handle

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    asked, ask = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(ask, b"."))  # before there is a command that could outlive this process
    try:
        command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"error: {error}")
    signal.signal(signal.SIGINT, lambda *_: None)  # the group's own; set after the start, so that the command keeps what it is given
    signal.signal(signal.SIGHUP, lambda *_: os.write(ask, b"."))
    ended, end = os.pipe()

    def watch() -> None:
        command.wait()
        os.write(end, b".")

    threading.Thread(target=watch, daemon=True).start()
    if ended not in select.select([sys.stdin, asked, ended], [], [])[0]:
        stop_group()
    code = command.wait()
    os._exit(code if code >= 0 else 128 - code)  # a thread that waits would hold up an ordinary exit


def stop_group() -> None:
    """Interrupt every other process of this one's group, and kill those that are left after STOP_SECONDS: the command may end before its
    children, and a shell's background jobs ignore interrupts."""
    import psutil

    os.killpg(0, signal.SIGINT)
    deadline = time.monotonic() + STOP_SECONDS
    while others := [process for process in psutil.process_iter() if _in_group(process.pid) and process.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            for process in others:
                process.kill()
            return
        time.sleep(0.05)


def _in_group(pid: int) -> bool:
    try:
        return pid != os.getpid() and os.getpgid(pid) == os.getpgrp()
    except OSError:  # it has ended
        return False


if __name__ == "__main__":
    main()
