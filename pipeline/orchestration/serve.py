"""Prefect on this machine: python -m pipeline.orchestration.serve {start,stop,status}.

`start` brings up a server, a process work pool with a worker, and the deployments of `prefect.yaml`, all on the loopback interface and with
their files in .prefect/; it may be repeated, and starts again what died. `stop` ends all of it, running flows with their stages included:
every process that `start` begot carries the project's folder in the environment variable VRPO_SERVE, whoever its parent is by then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from pipeline.arguments import new_parser
from pipeline.environment import prefect_environment
from vrpo.console.arguments import whole
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError

MARK = "VRPO_SERVE"
POOL = "vrpo"
START_SECONDS = 180.0  # a first start makes the database
STOP_SECONDS = 30.0  # for flows to end their stages and report


def environment(root: Path, port: int) -> dict[str, str]:
    """Of everything that belongs to the server of this project."""
    settings = {
        **prefect_environment(root),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_API_URL": api_url(port),
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "PREFECT_CLIENT_MAX_RETRIES": "7",  # four minutes, in which a server that died can be started again
        "PYTHONPATH": str(root),
        MARK: str(root),
    }
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    return {**os.environ, **settings, "PATH": path}


def api_url(port: int) -> str:
    """Where clients find the server."""
    return f"http://127.0.0.1:{port}/api"


def ours(root: Path, *words: str) -> list[psutil.Process]:
    """Living processes that `start` begot in this folder, directly or not, whose command line holds all `words`."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.pid != os.getpid() and process.environ().get(MARK) == str(root)
            if marked and process.status() != psutil.STATUS_ZOMBIE and set(words) <= set(process.cmdline()):
                found.append(process)
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
    return found


def command_line(process: psutil.Process) -> str:
    """Of a process, which may have ended meanwhile."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def start(root: Path, port: int) -> None:
    """Start what is not running.

    Raises:
        UserError: the port is taken, or a part does not start; the end of its log says why.
    """
    if not (root / "prefect.yaml").is_file():
        raise UserError(f"{root / 'prefect.yaml'}: not found; run from the project's folder")
    (root / ".prefect").mkdir(exist_ok=True)
    server = ours(root, "server", "start")
    if server and str(port) not in server[0].cmdline():
        raise UserError(f"a server of this project runs already: {' '.join(server[0].cmdline()[-3:])}; `make stop` first")
    if not server:
        if answers(port):
            raise UserError(f"port {port} is taken by another server; choose one: make serve PREFECT_PORT={port + 1}")
        spawn(root, port, "server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    deadline = time.monotonic() + START_SECONDS
    while not answers(port):
        if not ours(root, "server", "start") or time.monotonic() > deadline:
            raise UserError(f"the server did not start:\n{tail(root, 'server')}")
        time.sleep(0.5)
    prefect(root, port, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect(root, port, "--no-prompt", "deploy", "--all")
    if not ours(root, "worker", "start"):
        close_dead_runs(port)
        spawn(root, port, "worker", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "1")  # others wait


def close_dead_runs(port: int) -> None:
    """Without a worker no run goes on, but those that could not report their end, as after `make stop`, would stay "Running" for good."""
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}, "work_pools": {"name": {"any_": [POOL]}}}
    crashed = {"type": "CRASHED", "message": "its worker was stopped; a new run goes on from the checkpoints"}
    for run in post(port, "flow_runs/filter", wanted):
        post(port, f"flow_runs/{run['id']}/set_state", {"state": crashed, "force": True})


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    """Ask the server's API."""
    request = Request(f"{api_url(port)}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as response:
        return json.load(response)


def spawn(root: Path, port: int, name: str, *arguments: str) -> None:
    """Start a part that stays, with its output in .prefect/<name>.log."""
    with (root / ".prefect" / f"{name}.log").open("a", encoding="utf-8") as log:
        command = [sys.executable, "-m", "prefect", *arguments]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        subprocess.Popen(command, cwd=root, env=environment(root, port), start_new_session=True, **quiet)


def prefect(root: Path, port: int, *arguments: str) -> None:
    """Run a Prefect command to its end."""
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(command, cwd=root, env=environment(root, port), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"prefect {' '.join(arguments)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def answers(port: int) -> bool:
    """Whether a Prefect server answers at the port."""
    try:
        with urlopen(f"{api_url(port)}/health", timeout=5) as response:
            return response.status == 200
    except (URLError, OSError):
        return False


def tail(root: Path, name: str) -> str:
    """The end of a part's log."""
    return "\n".join((root / ".prefect" / f"{name}.log").read_text(encoding="utf-8").splitlines()[-15:])


def stop(root: Path) -> int:
    """End the worker and running flows, which end their stages, then the server; returns how many processes there were."""
    everything = ours(root)
    server = ours(root, "server", "start")
    for process in everything:
        if process not in server and "prefect" in command_line(process):
            _signal(process.terminate)
    _end([process for process in everything if process not in server], STOP_SECONDS)
    for process in server:
        _signal(process.terminate)
    _end(server + ours(root), STOP_SECONDS)
    return len(everything)


def _end(processes: list[psutil.Process], seconds: float) -> None:
    """Wait for processes, then kill those that are left."""
    for process in psutil.wait_procs(processes, timeout=seconds)[1]:
        _signal(process.kill)
    psutil.wait_procs(processes, timeout=5)


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.Error):  # ended meanwhile
        send()


def main() -> None:
    speak_safely()
    parser = new_parser("pipeline.orchestration.serve", __doc__)
    parser.add_argument("command", choices=("start", "stop", "status"))
    parser.add_argument("--port", type=whole(1, 65535), default=4200, help="of the server (default: %(default)s)")
    options = parser.parse_args()
    root = Path.cwd()
    try:
        if options.command == "start":
            start(root, options.port)
            print(f"Prefect: http://127.0.0.1:{options.port}, logs in .prefect/; `make stop` ends it. For its command line:")
            print(f"export PREFECT_API_URL={api_url(options.port)}")
        elif options.command == "stop":
            print(f"stopped: {stop(root)} processes")
        else:
            for process in ours(root):
                print(process.pid, command_line(process)[:120])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
