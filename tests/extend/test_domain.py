"""What is said of a domain of one's own where something is wrong with it, and rows of one's own; test_recipes.py takes one through every stage."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.domains import domain_of, load_task
from pipeline.params import Params, resolve_params
from tests.extend.page import RECIPES, ROOT
from vrpo.errors import UserError
from vrpo.tasks import loader
from vrpo.tasks.base import Domain

RECIPE = RECIPES["domain"].files["vrpo/tasks/sort/__init__.py"]
OWN = "my_task.py:DOMAIN"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vrpo.own_code._FILES", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "domain", "message"),
    [
        ("", "nothing.py:DOMAIN", "no file nothing.py in .*; correct the path"),
        ("", "my_task.py", "write FILE.py:NAME, the file and what to take from it"),
        ("def f(:", OWN, "my_task.py, line 1: invalid syntax.*; correct it"),
        ("OTHER = 1\ndef f(): DOMAIN = 2", OWN, "my_task.py defines no DOMAIN at its top; define it, or correct the name"),
    ],
)
def test_a_wrong_file_is_told_when_parameters_are_checked(home: Path, code: str, domain: str, message: str) -> None:
    Path("my_task.py").write_text(code)
    with pytest.raises(UserError, match=f"params.yaml: domain = {domain!r}: {message}"):
        resolve_params({"domain": domain})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import nothing_here\nDOMAIN = 1",
            "my_task.py, line 1, cannot be run (ModuleNotFoundError: No module named 'nothing_here'); correct it",
        ),
        (
            "def f():\n    return 1 / 0\n\nDOMAIN = f()",
            "my_task.py, line 2, cannot be run (ZeroDivisionError: division by zero); correct it",
        ),
        ("DOMAIN = 1", "is 1, no vrpo.tasks.base.Domain; write NAME = Domain"),
        ("if False:\n    DOMAIN = 1", "my_task.py has no DOMAIN after it ran"),
    ],
)
def test_a_file_that_fails_is_told_when_it_is_loaded_and_not_run_before(home: Path, code: str, message: str) -> None:
    Path("my_task.py").write_text(code)
    params = resolve_params({"domain": OWN})
    assert "my_task" not in sys.modules
    with pytest.raises(UserError, match=re.escape(f"domain = {OWN!r}: {message}")):
        domain_of(params)


def test_a_file_may_not_hide_a_module(home: Path) -> None:
    Path("json.py").write_text("DOMAIN = 1")
    with pytest.raises(UserError, match="json.py has the name of another module .*; rename the file"):
        domain_of(Params(domain="json.py:DOMAIN"))


@pytest.mark.parametrize(
    ("domain", "changes", "message"),
    [
        ("on_rows=f", {}, "prepare.dataset = 'procedural': the domain of x makes no problems"),
        ("procedural=f", {"prepare": {"dataset": "mine.jsonl"}}, "prepare.dataset = 'mine.jsonl': the domain of x has no questions"),
        ("procedural=f, voted_on=False", {}, "label.source = 'majority_vote': x have no final answers"),
        ("procedural=f", {"methods": ["oracle"]}, "methods: oracle needs a task whose values are known, domain math with"),
        ("procedural=f", {"reward": {"per_turn": True}}, "reward.per_turn = true: needs domain = dialogue, reward.kind = rule"),
        ("procedural=f", {}, r"f\(length\): no such setting; give it a default, or use one of dataset, .*max_length.* tokenizer"),
    ],
)
def test_parameters_that_do_not_go_with_an_own_domain(home: Path, domain: str, changes: dict, message: str) -> None:
    Path("my_task.py").write_text(
        f"from vrpo.tasks.base import Domain\n\ndef f(length): ...\n\nDOMAIN = Domain('x', {domain.replace('Domain(', '')})"
    )
    with pytest.raises(UserError, match=message):
        load_task(resolve_params({"domain": OWN, **changes}))


def test_an_own_task_reads_rows(home: Path) -> None:
    from pipeline.stages import prepare

    Path("my_task.py").write_text(RECIPE)
    Path("mine.jsonl").write_text("".join(json.dumps({"query": f"{a}{b}", "gold": f"{a}{b}"}) + "\n" for a in "abcd" for b in "efgh"))
    params = Params(domain=OWN, prepare={"dataset": "mine.jsonl", "train_size": 10, "validation_size": 3, "test_size": 3})
    assert prepare.run(params, record=None)["rows_train"] == 10
    assert type(load_task(params)).__name__ == "SortTask"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("label: {vote: 1}", "settings.yaml: label.vote: unknown key; .*did you mean 'votes'"),
        ("seeds: [1]", "settings.yaml: seeds: is read at the top of params.yaml alone"),
        ("", "settings.yaml: write sections"),
    ],
)
def test_wrong_settings_of_a_folder_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, message: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(settings)
    monkeypatch.setattr(loader, "settings_file", lambda name: path if name == "math" else tmp_path / "none")
    with pytest.raises(UserError, match=message):
        resolve_params({})


def test_domains_are_the_folders_and_load_without_torch() -> None:
    code = (
        "from vrpo.tasks import loader; [loader.load_domain(name) for name in loader.domains()]; import sys; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "False\n"
    assert {"dialogue", "math", "science"} <= set(loader.domains())
    assert all(isinstance(loader.load_domain(name), Domain) for name in loader.domains())
