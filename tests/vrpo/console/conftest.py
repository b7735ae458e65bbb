"""A folder with a policy, prompts and a reward, in which commands run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.vrpo.tiny import reading_policy
from vrpo.console.main import main

REWARD = """
def long(completions, answer, **_):
    assert len(completions) == len(answer)
    return [None if completion.startswith("a") else len(completion) for completion in completions]


def short(prompts, responses, limit=3, **_):
    return [float(len(response) <= limit) for response in responses]


def none(completions, **_):
    return [None] * len(completions)


def wants(completions, colour):
    return [0.0] * len(completions)
"""


@pytest.fixture(autouse=True)
def no_files_of_other_tests(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Code of one's own is loaded once a process, and known by its file's name."""
    made = str(tmp_path_factory.getbasetemp())
    monkeypatch.setattr("vrpo.own_code._FILES", {})
    monkeypatch.setattr("sys.path", [place for place in sys.path if not place.startswith(made)])
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(made):
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("console")
    reading_policy(folder / "policy")
    rows = [{"prompt": f"{number} + {number} =", "answer": str(2 * number)} for number in range(6)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(REWARD)
    return folder


@pytest.fixture
def vrpo(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs a command line in a folder of its own that shows what is prepared; gives exit code, standard output, errors."""
    for path in prepared.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(line: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(line.split())
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
