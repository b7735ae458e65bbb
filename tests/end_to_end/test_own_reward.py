"""A reward of one's own through the whole pipeline, as the tutorial has it: a file, two parameters, `make repro`."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.end_to_end.conftest import ROOT, Project

REWARD = """
def score(prompts, responses, *, answer, **columns):
    with open("asked.txt", "a") as file:
        file.write(f"{len(responses)}\\n")
    return [{value} for response in responses]
"""
CELLS = {"train@grpo-0", "evaluate@grpo-0"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, subprocess.CompletedProcess]:
    """A checkout with a reward of one's own, brought up to date."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("vrpo", "pipeline", "data/own"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "my_rewards.py").write_text(REWARD.replace("{value}", "0.25"))
    project = Project(folder)
    project.run("git", "init", "-q")
    project.dvc("init", "-q")
    project.change_params(
        profile="mini",
        methods=["grpo"],
        seeds=[0],
        noise=[],
        label={"source": "clean"},
        reward={"kind": "function", "function": "my_rewards.py:score"},
    )
    return project, project.run(sys.executable, "-m", "pipeline.repro", "--jobs", "1", MLFLOW_TRACKING_URI="off")


def test_training_saw_what_the_function_returned(finished: tuple[Project, subprocess.CompletedProcess]) -> None:
    folder = finished[0].folder
    log = [json.loads(line) for line in (folder / "data/runs/grpo-0/log.jsonl").read_text().splitlines()]
    assert {row["reward/observed"] for row in log if "reward/observed" in row} == {0.25}
    assert (folder / "asked.txt").exists()
    evaluation = json.loads((folder / "data/evaluations/grpo-0.json").read_text())
    assert evaluation["noise"]["kind"] == "own_reward" and evaluation["noise"]["function"] == "my_rewards.py:score"


def test_the_end_shows_results_and_what_to_do_next(finished: tuple[Project, subprocess.CompletedProcess]) -> None:
    said = finished[1].stdout
    summary = json.loads((finished[0].folder / "data/reports/summary.json").read_text())
    (row,) = [line for line in said.splitlines() if line.startswith("GRPO")]
    assert row.split()[1] == f"{100 * summary['methods']['grpo']['accuracy']['mean']:.1f}"
    assert "make ui" in said and "data/reports/report.html" in said and "git add" not in said


def test_an_edit_of_the_reward_reruns_what_uses_it(finished: tuple[Project, subprocess.CompletedProcess]) -> None:
    project = finished[0]
    assert project.stale() == set()
    path = project.folder / "my_rewards.py"
    path.write_text(REWARD.replace("{value}", "0.5"))
    assert project.stale() == CELLS
    path.write_text(REWARD.replace("{value}", "0.25"))
    assert project.stale() == set()
