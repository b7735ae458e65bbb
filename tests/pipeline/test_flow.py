"""The flow runs what DVC finds stale, in DVC's order, and leaves nothing behind when it is stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline import repro
from pipeline.environment import prefect_environment
from pipeline.orchestration import serve
from pipeline.orchestration.runner import LEASH, Outcome, Runner, Stage, by_stage, follow, read_graph, take_turn
from pipeline.tracking.file import Record
from vrpo.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
GRAPH = """
stages:
  prepare:
    cmd: cp source.txt prepared.txt
    deps: [source.txt]
    outs: [prepared.txt]
  train:
    matrix:
      method: [good, bad]
    cmd: python -c "import sys; print('training', flush=True); open('${item.method}.txt', 'w'); sys.exit('${item.method}' == 'bad')"
    deps: [prepared.txt]
    outs: ["${item.method}.txt"]
  report:
    cmd: cp bad.txt report.txt
    deps: [bad.txt]
    outs: [report.txt]
  flaky:
    cmd: sh -c 'echo attempt >> attempts.log; test $(wc -l < attempts.log) -ge 2 || exit 75'
  sleep:
    cmd: sh -c 'echo $$ > pid.tmp; mv pid.tmp pid.txt; sleep 600'
"""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project of four stages (one a matrix, one failing) whose first is up to date."""
    folder = tmp_path_factory.mktemp("dvc")
    (folder / "dvc.yaml").write_text(GRAPH.partition("  sleep:")[0])
    (folder / "source.txt").write_text("1\n")
    for command in (["init", "--no-scm", "-q"], ["repro", "-q", "prepare"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, check=True)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template as working folder."""
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    for key in ("PREFECT_HOME", "PREFECT_API_URL", "DVC_ROOT"):
        monkeypatch.delenv(key, raising=False)
    for key, value in {"DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(PROJECT)}.items():
        monkeypatch.setenv(key, value)
    return folder


def test_graph_is_dvcs_own(project: Path) -> None:
    stages = read_graph(project)
    assert set(stages) == {
        Stage("prepare", (), clean=True),
        Stage("train@good", ("prepare",), clean=False),
        Stage("train@bad", ("prepare",), clean=False),
        Stage("report", ("train@bad",), clean=False),
        Stage("flaky", (), clean=False),
    }
    names = [stage.name for stage in stages]
    assert all(names.index(other) < names.index(stage.name) for stage in stages for other in stage.upstream)


def test_broken_graph_is_one_error(project: Path) -> None:
    Path("dvc.yaml").write_text("stages:\n  prepare:\n    command: true\n")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        read_graph(project)


# RETRY_SECONDS of the module, not of a person's patience; otherwise what `python -m pipeline.flow` does.
IMPATIENT = """
import os
from pathlib import Path
from pipeline import flow
os.environ.update(flow.prefect_environment(Path.cwd()))
from pipeline.orchestration import flows as prefect_flows
prefect_flows.RETRY_SECONDS[:] = [0, 0]
flow.main()
"""


def test_flow_runs_what_is_stale_and_nothing_after_a_failure(project: Path) -> None:
    flow = subprocess.run([sys.executable, "-c", IMPATIENT], capture_output=True, text=True, check=False, timeout=300)
    table = [line.split()[:2] for line in flow.stdout.strip().splitlines()[1:]]
    states = [["flaky", "Ran"], ["prepare", "Cached"], ["report", "Skipped"], ["train@bad", "Failed"], ["train@good", "Ran"]]
    assert sorted(table) == states, flow.stderr
    assert flow.returncode == 1
    assert flow.stderr.count("- training\n") == 2  # the stages' own lines are in the log; a failure is not tried again
    assert Path("attempts.log").read_text().count("attempt") == 2  # exit code 75 is
    assert "Cached(" in flow.stderr and "Ran(" in flow.stderr and "Failed(" in flow.stderr  # states that Prefect shows
    assert "exited with 1" in flow.stderr.rpartition("the end of the log")[2]
    assert Path("good.txt").exists() and not Path("report.txt").exists()
    assert Path(".prefect").is_dir()


def test_stage_that_dvc_finds_unchanged_is_cached(project: Path) -> None:
    lines: list[str] = []
    assert Runner(project, jobs=1).run("prepare", lines.append).state == "Cached"
    assert lines[0] == "Stage 'prepare' didn't change, skipping"


def test_failure_keeps_the_end_of_the_log(project: Path) -> None:
    outcome = Runner(project, jobs=1).run("train@bad", lambda line: None)
    assert (outcome.state, outcome.retryable) == ("Failed", False)
    assert "training" in outcome.tail and "exited with 1" in outcome.tail
    assert Runner(project, jobs=1).run("flaky", lambda line: None).retryable


def test_output_of_an_experiment_is_cut_into_stages() -> None:
    restored = "Stage 'b@0' is cached - skipping run, checking out outputs"
    output = [
        "Reproducing",
        "Stage 'a' didn't change, skipping",
        restored,
        "Running stage 'b@1':",
        "> work",
        "Running stage 'c':",
        "ERROR",
        255,
    ]
    seen: list[str] = []
    outcomes = {name: follow(name, lines, seen.append) for name, lines in by_stage(iter(output))}
    assert {name: outcome.state for name, outcome in outcomes.items()} == {
        "start": "Ran",
        "a": "Cached",
        "b@0": "Restored",
        "b@1": "Ran",
        "c": "Failed",
    }
    assert seen == output[:-1]
    assert outcomes["c"].tail.endswith("ERROR")


def test_stop_ends_the_stage_with_its_children(project: Path) -> None:
    Path("dvc.yaml").write_text(GRAPH)
    runner = Runner(project, jobs=1)
    result = []
    thread = threading.Thread(target=lambda: result.append(runner.run("sleep", print)), daemon=True)
    thread.start()
    pid = _pid_of_sleep()
    runner.stop()
    thread.join(timeout=120)
    assert [outcome.state for outcome in result] == ["Failed"]
    assert runner.run("prepare", print).state == "Failed"  # nothing starts any more
    assert _ends(pid)


def test_a_stage_ends_with_a_killed_flow(project: Path) -> None:
    Path("dvc.yaml").write_text(GRAPH)
    code = "from pathlib import Path; from pipeline.orchestration.runner import Runner; Runner(Path.cwd(), 1).run('sleep', print)"
    flow = subprocess.Popen([sys.executable, "-c", code])
    pid = _pid_of_sleep()
    flow.kill()
    flow.wait()
    assert _ends(pid)


def test_leash_passes_the_exit_code_on() -> None:
    command = [sys.executable, LEASH, "sh", "-c"]
    codes = [
        subprocess.Popen([*command, script], stdin=subprocess.PIPE, start_new_session=True).wait(30) for script in ("exit 7", "kill -9 $$")
    ]
    assert codes == [7, 137]


def _pid_of_sleep() -> int:
    deadline = time.monotonic() + 300
    while not Path("pid.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(Path("pid.txt").read_text())
    assert _runs(pid)
    return pid


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether a process exists and is not a zombie that its new parent has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_second_run_waits_for_its_turn(project: Path) -> None:
    said, order = threading.Event(), []

    def second() -> None:
        def wait(message: str) -> None:
            order.append(message)
            said.set()

        with take_turn(project, wait):
            order.append("second")

    thread = threading.Thread(target=second)
    with take_turn(project, print):
        thread.start()
        assert said.wait(30)
        order.append("first")
    thread.join(30)
    assert order == [f"waiting for the run of process {os.getpid()}, which works in this checkout", "first", "second"]


def test_deployments_name_flows_with_their_parameters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, as Prefect reads its settings when it is imported."""
    code = """
import inspect, yaml
from prefect.flows import load_flow_from_entrypoint
for deployment in yaml.safe_load(open("prefect.yaml"))["deployments"]:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    accepted = flow.validate_parameters(deployment["parameters"])
    assert set(accepted) == set(inspect.signature(flow.fn).parameters), deployment["name"]
    assert "concurrency_limit" not in deployment, "its runs crash when the server is started again"
    assert deployment["work_pool"]["name"] == "vrpo" and deployment["schedules"][0]["cron"]
from pipeline.orchestration.flows import experiment_settings
assert experiment_settings({"profile": "mini", "domain": None}, ["train.gae_lambda=0.8"]) == ["profile=mini", "train.gae_lambda=0.8"]
try:
    experiment_settings({}, ["train.gae_lambda"])
except ValueError as error:
    assert "overrides: 'train.gae_lambda' is not of the form" in str(error)
else:
    raise AssertionError
"""
    environment = {**os.environ, **prefect_environment(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_page_is_published_with_its_figures(tmp_path: Path) -> None:
    (tmp_path / "figure.png").write_bytes(b"png")
    (tmp_path / "page.md").write_text("# Page\n\n![curves](figure.png)\n")
    code = """
import sys
from pathlib import Path
from pipeline.orchestration import flows as prefect_flows
prefect_flows.create_markdown_artifact = lambda page, key: print(key, page)
prefect_flows.publish_page(Path(sys.argv[1]), "report")
"""
    environment = {**os.environ, **prefect_environment(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "page.md")]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("report # Page") and "![curves](data:image/png;base64,cG5n)" in done.stdout, done.stderr


def test_stop_ends_what_serve_began_and_nothing_else(tmp_path: Path) -> None:
    environment = serve.environment(tmp_path, 4299)
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4299/api" and environment["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    ours, other = (subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for env in (environment, None))
    child, stranger = int(ours.stdout.readline()), int(other.stdout.readline())
    ours.kill()  # its child has another parent now
    ours.wait()
    try:
        assert [process.pid for process in serve.ours(tmp_path)] == [child]
        serve.STOP_SECONDS, before = 1.0, serve.STOP_SECONDS
        assert serve.stop(tmp_path) == 1
        serve.STOP_SECONDS = before
        assert _ends(child) and _runs(stranger)
    finally:
        other.kill()
        os.kill(stranger, 9)


def test_stop_takes_no_notice_of_a_process_that_ends_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen(["sleep", "600"])
    process = psutil.Process(ended.pid)
    ended.kill()
    ended.wait()
    monkeypatch.setattr(serve, "ours", lambda root, *words: [] if words else [process])
    assert serve.stop(tmp_path) == 1


def test_runs_without_a_worker_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def post(port: int, path: str, body: dict) -> list[dict]:
        sent.append((path, body))
        return [{"id": "a"}, {"id": "b"}]

    monkeypatch.setattr(serve, "post", post)
    serve.close_dead_runs(4299)
    assert sent[0][1]["work_pools"] == {"name": {"any_": ["vrpo"]}}  # a flow by hand has no worker
    assert [(path, body["state"]["type"]) for path, body in sent[1:]] == [(f"flow_runs/{run}/set_state", "CRASHED") for run in "ab"]


WORKERS = """
import sys, time
from pathlib import Path
from pipeline.leash import interrupt_on_signals, workers
if __name__ == "__main__":
    interrupt_on_signals()
    with workers(1) as pool:
        Path("pid.tmp").write_text(str(pool.submit(__import__("os").getpid).result()))
        Path("pid.tmp").rename("pid.txt")
        pool.submit(time.sleep, 600).result()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_worker_processes_end_with_whoever_started_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(WORKERS)
    parent = subprocess.Popen(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
        preexec_fn=None if number == signal.SIGKILL else lambda: signal.signal(number, signal.SIG_DFL),  # nohup and `&` have it ignored
    )
    pid = _pid_of_sleep()
    parent.send_signal(number)
    parent.communicate(timeout=120)
    assert parent.returncode != 0 and _ends(pid)


SLEEPING = """
stages:
  params: {cmd: cp params.yaml resolved.yaml, deps: [params.yaml], outs: [resolved.yaml]}
  sleep: {cmd: sh -c 'echo $$ > pid.tmp; mv pid.tmp pid.txt; sleep 600', deps: [resolved.yaml]}
"""


def test_a_second_reproduction_waits_and_a_stopped_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    (tmp_path / "dvc.yaml").write_text(SLEEPING)
    (tmp_path / "params.yaml").write_text("seeds: [0]\n")
    command = [sys.executable, "-m", "pipeline.repro"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    pid = _pid_of_sleep()
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert second.stderr.readline() == f"waiting for the run of process {first.pid}, which works in this checkout\n"
    first.terminate()
    assert "stopped" in first.communicate(timeout=120)[1] and first.returncode == 130 and _ends(pid)
    (tmp_path / "pid.txt").unlink()
    pid = _pid_of_sleep()  # the second one's turn
    second.terminate()
    assert second.wait(120) == 130 and _ends(pid)


def test_a_reproduction_runs_what_it_can_says_so_and_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    (project / "params.yaml").write_text("seeds: [0]\n")
    done = subprocess.run([sys.executable, "-m", "pipeline.repro", "--jobs", "3"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and "failed: flaky, train@bad; " in done.stdout
    assert any(line.startswith("train@good: ran, ") for line in lines) and "report: skipped, 0.0 s" in lines
    assert not any(line.startswith("prepare") for line in lines) and not Path("report.txt").exists()
    Path("dvc.yaml").write_text(Path("dvc.yaml").read_text().replace("sys.exit('${item.method}' == 'bad')", "sys.exit(0)"))
    assert subprocess.run([sys.executable, "-m", "pipeline.repro"], stdout=subprocess.DEVNULL).returncode == 0
    assert Path("report.txt").exists()


def test_a_leash_ends_background_jobs_that_ignore_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell's background jobs do; they outlived the command, which ended at once."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, LEASH, "sh", "-c", "sleep 600 & echo $! > pid.tmp; mv pid.tmp pid.txt; sleep 600"]
    leash = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    pid = _pid_of_sleep()
    leash.stdin.close()
    assert leash.wait(60) and _ends(pid)


def test_a_leash_names_a_command_that_is_not_there() -> None:
    done = subprocess.run([sys.executable, LEASH, "no-such-command"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: [Errno 2] No such file or directory: 'no-such-command'\n"


def test_a_leash_that_is_asked_to_end_ends_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, LEASH, "sh", "-c", "echo $$ > pid.tmp; mv pid.tmp pid.txt; sleep 600"]
    leash = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    pid = _pid_of_sleep()
    leash.terminate()
    assert leash.wait(30) and _ends(pid)


def test_the_view_says_how_far_a_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the latest run in its record; of a stage that trains nothing, nothing."""
    monkeypatch.chdir(tmp_path)
    stages = [Stage("base", (), False), Stage("train@vrpo-0", ("base",), False)]
    path, start = Path("data/tracking/train-vrpo-0.jsonl"), {"params": {"train.iterations": 2}}
    rows = [{"iteration": n, "rollouts": 360 * (n + 1), "reward/observed": 0.5 + n / 8, "validation/accuracy": 0.75} for n in range(3)]
    for last in (rows, rows[:1]):
        record = Record(path, start)
        for step, row in enumerate(last):
            record.metrics(row, step)
        if last is rows:
            assert repro.progress("train@vrpo-0") == ": iteration 2 of 2, reward 0.750, held-out accuracy 0.750"
        record.end("FINISHED")
    assert repro.progress("train@vrpo-0") == ": value warm-up done, reward 0.500, held-out accuracy 0.750" and repro.progress("base") == ""
    view = repro.View(stages)
    view.begin("train@vrpo-0")
    view.end("base", Outcome("Cached", 0.0))
    columns = [list(column.cells) for column in view.render().columns]
    assert columns[0] == ["train@vrpo-0", "1 of 2 stages done"] and columns[2][0].startswith("value warm-up done, ")


def test_the_view_s_time_left_is_of_the_iterations_since_the_run_went_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [{"event": "start", "params": {"train.iterations": 12}}]
    lines += [{"event": "metrics", "time": t, "step": n, "values": {"iteration": n, "rollouts": 9}} for n, t in enumerate((100, 110, 120))]
    for more, left in (([], "01:40"), ([{"event": "resume", "time": 5000}, lines[-1] | {"time": 5030, "step": 3}], "04:30")):
        lines += more
        if more:
            lines[-1]["values"] = {"iteration": 3, "rollouts": 9}
        path = Path("data/tracking/train-vrpo-0.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert repro.progress("train@vrpo-0").endswith(f" of 12, {left} left")


def test_a_finished_run_ends_with_its_results_and_what_to_do_next(tmp_path: Path) -> None:
    def method(mean: float, ci95: list[float] | None, seeds: int) -> dict:
        return {"accuracy": {"mean": mean, "ci95": ci95, "n": seeds}, "accuracy_init": {"mean": 0.4795, "ci95": None, "n": seeds}}

    (tmp_path / "data/reports").mkdir(parents=True)
    summary = {"confidence": 0.95, "methods": {"ppo": method(0.8346, [0.5725, 1.0967], 3), "regulated": method(0.9076, None, 1)}}
    (tmp_path / "data/reports/summary.json").write_text(json.dumps(summary))
    lines = repro.outlook(tmp_path).splitlines()
    assert lines[1:5] == [
        "Method     Test accuracy (%)  Cold start (%)  Seeds",
        "PPO        83.5 ± 26.2        47.9            3",
        "REGULATED  90.8               47.9            1",
        "± half a 95% interval over seeds",
    ]
    commands = "\n".join(lines[5:])
    for words in ("data/reports/report.html", "make ui", "params.yaml", "dvc exp run --temp", "docs/tutorial.md"):
        assert words in commands
    assert repro.outlook(tmp_path / "elsewhere") == repro.NEXT  # another graph, without a report


def test_dvc_s_advice_to_add_files_is_left_out_and_nothing_is_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    shutil.copy(PROJECT / ".dvc/config", ".dvc/config")
    subprocess.run(["git", "reset", "-q"], check=True)  # `dvc init` stages its own files
    Path("dvc.yaml").write_text("stages:\n  one: {cmd: echo hello > one.txt, outs: [one.txt: {cache: false}]}\n")
    lines: list[str] = []
    outcome = Runner(tmp_path, 1).run("one", lines.append)
    assert outcome.state == "Ran" and "Running stage 'one':" in lines and Path("dvc.lock").exists()
    assert not [line for line in lines if "git" in line or "stag" in line.replace("Running stage", "") or "push" in line]
    assert subprocess.run(["git", "diff", "--cached", "--name-only"], capture_output=True, text=True, check=True).stdout == ""
