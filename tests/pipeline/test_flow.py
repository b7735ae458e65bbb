"""The flow runs what DVC finds stale, in DVC's order, and leaves nothing behind when it is stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.flow import Runner, Stage, only_flow, read_graph
from vrpo.config import UserError

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
    }
    names = [stage.name for stage in stages]
    assert all(names.index(other) < names.index(stage.name) for stage in stages for other in stage.upstream)


def test_broken_graph_is_one_error(project: Path) -> None:
    Path("dvc.yaml").write_text("stages:\n  prepare:\n    command: true\n")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        read_graph(project)


def test_flow_runs_what_is_stale_and_nothing_after_a_failure(project: Path) -> None:
    flow = subprocess.run([sys.executable, "-m", "pipeline.flow"], capture_output=True, text=True, check=False, timeout=120)
    table = [line.split()[:2] for line in flow.stdout.strip().splitlines()[1:]]
    assert sorted(table) == [["prepare", "Cached"], ["report", "Skipped"], ["train@bad", "Failed"], ["train@good", "Ran"]]
    assert flow.returncode == 1
    assert flow.stderr.count("- training\n") == 2  # the stages' own lines are in the log
    assert "Cached(" in flow.stderr and "Ran(" in flow.stderr and "Failed(" in flow.stderr  # states that Prefect shows
    assert Path("good.txt").exists() and not Path("report.txt").exists()
    assert Path(".prefect").is_dir()


def test_stage_that_dvc_finds_unchanged_is_cached(project: Path) -> None:
    lines: list[str] = []
    assert Runner(project, jobs=1).run("prepare", lines.append, "test")[0] == "Cached"
    assert lines[0] == "Stage 'prepare' didn't change, skipping"


def test_stop_ends_the_stage_with_its_children(project: Path) -> None:
    Path("dvc.yaml").write_text(GRAPH)
    runner = Runner(project, jobs=1)
    result: list[tuple[str, float]] = []
    thread = threading.Thread(target=lambda: result.append(runner.run("sleep", print, "test")), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not Path("pid.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(Path("pid.txt").read_text())
    assert _runs(pid)
    runner.stop()
    thread.join(timeout=10)
    assert [state for state, _ in result] == ["Failed"]
    assert runner.run("prepare", print, "test")[0] == "Failed"  # nothing starts any more
    deadline = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether a process exists and is not a zombie that its new parent has yet to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_second_flow_is_refused(project: Path) -> None:
    refused = pytest.raises(UserError, match=rf"another flow \(process {os.getpid()}\) is running")
    with only_flow(project), refused, only_flow(project):
        pass
    with only_flow(project):  # free again
        pass
