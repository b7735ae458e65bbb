"""A reward of one's own, named by parameters: looked at without being run, trained on as it is, its mistakes named in one line."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline import own_code, preflight
from pipeline.files import read_json, read_jsonl
from pipeline.params import Params
from pipeline.reporting import sections
from pipeline.stages import base, evaluate, label, observed, prepare, reward, sft, train
from pipeline.stages import params as resolve
from pipeline.study import cells
from pipeline.study.file import Cell
from pipeline.tracking.file import Record
from pipeline.tracking.record import describe_noise
from pipeline.workspace import HERE
from vrpo.errors import UserError
from vrpo.tasks.math.chain import ChainTask

REWARDS = '''
"""Two conventions, one reward; each call is written down."""
import json

import torch


def note(step, scores):
    with open("seen.jsonl", "a") as file:
        print(json.dumps({"step": step, "scores": scores}), file=file)
    return scores


def score(prompts, responses, *, id, answer, label, step, **columns):
    assert len(prompts) == len(responses) == len(id) == len(answer) == len(label)
    return note(step, [len(set(response)) / 64 for response in responses])


def trl(completions, **columns):
    return torch.tensor(note(columns["step"], [len(set(completion)) / 64 for completion in completions]))


class Picky:
    def __call__(self, completions, colour):
        return [0.0] * len(completions)


def right(completions, answer, **_):
    return [float(completion.endswith(digit)) for completion, digit in zip(completions, answer)]


picky = Picky()
number = 3
'''
FLIP = {"kind": "flip", "false_positive": 0.3, "false_negative": 0.3}


def params(function: str = "my_rewards.py:score", reward: dict | None = None, **sections: object) -> Params:
    values = {
        "methods": ["reinforce"],
        "seeds": [0],
        "generation": {"max_new_tokens": 12},
        "prepare": {"train_size": 32, "validation_size": 8, "test_size": 8, "max_length": 2},
        "base": {"hidden_size": 16, "layers": 1, "heads": 2, "steps": 10},
        "label": {"source": "clean"},
        "sft": {"demonstrations": 8, "steps": 2},
        "train": {"iterations": 2, "rollouts": 64, "group_size": 4, "critic": {"warmup_rollouts": 0}},
        "evaluate": {"samples": 2},
        "reward": {"kind": "function", "function": function} | (reward or {}),
    }
    return Params.model_validate(values | sections)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory):
    """A folder with the rewards, in which everything up to training has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("own"))
        Path("my_rewards.py").write_text(REWARDS)
        record = Record(Path("data/tracking/all.jsonl"), {})
        for stage in (prepare, base, label, sft, reward):
            stage.run(params(), record=record)
        assert read_json(Path("data/models/reward/reward.json")) == {"kind": "function"}
        assert not Path("seen.jsonl").exists()
        yield record


@pytest.mark.parametrize("name", ["score", "trl"])
def test_what_training_sees_is_what_the_function_returns(project: Record, name: str) -> None:
    Path("seen.jsonl").unlink(missing_ok=True)
    chosen = params(f"my_rewards.py:{name}")
    train.run(chosen, "reinforce", 0, record=project)
    log = [row for row in read_jsonl(Path("data/runs/reinforce-0/log.jsonl")) if "reward/observed" in row]
    seen = {row["step"]: row["scores"] for row in read_jsonl(Path("seen.jsonl"))}
    assert len(log) == 2 and seen.keys() == {row["iteration"] for row in log}
    for row in log:
        assert row["reward/observed"] == pytest.approx(sum(seen[row["iteration"]]) / 32, abs=1e-6)
    found = evaluate.run(chosen, "reinforce", 0, record=project)
    (tested,) = [row["scores"] for row in read_jsonl(Path("seen.jsonl")) if row["step"] == observed.EVALUATED]
    assert found["proxy_gap"] == pytest.approx(sum(tested) / len(tested) - found["accuracy"], abs=1e-6)
    noise = read_json(Path("data/evaluations/reinforce-0.json"))["noise"]
    assert noise == {"kind": "own_reward", "function": chosen.reward.function, "reward": "function", "channels": []}
    assert describe_noise(chosen) == f"own reward {chosen.reward.function}"


def test_noise_and_corrections_act_on_it(project: Record) -> None:
    task, count = ChainTask(2), 400
    rows = {name: [str(i) for i in range(count)] for name in ("id", "answer", "label")}
    asked = {"prompts": ["1+1.:"] * count, "responses": ["+1", "+2=3"] * (count // 2), "step": 1, "samples": [0] * count, **rows}
    plain = observed.observed_reward(params(), task, 0, HERE)(**asked)
    assert plain == [2 / 64, 4 / 64] * (count // 2)
    noisy = observed.observed_reward(params(noise=[FLIP]), task, 0, HERE)(**asked)
    flipped = [a == 1 - b for a, b in zip(noisy, plain, strict=True)]
    assert sum(flipped) / count == pytest.approx(0.3, abs=0.07) and all(a in (b, 1 - b) for a, b in zip(noisy, plain, strict=True))
    with pytest.raises(
        ValueError, match="reward.kind = 'function': nobody knows how often such a reward is wrong; set reward.checked_samples"
    ):
        params(reward={"correction": "backward"})
    corrected = params("my_rewards.py:right", reward={"correction": "backward", "checked_samples": 8}, noise=[FLIP])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            observed, "_checked_rates", lambda *_: __import__("vrpo.rewards.corrections").rewards.corrections.FlipRates(0.3, 0.3, 8)
        )
        train.run(corrected, "reinforce", 0, record=project)
    assert read_json(Path("data/runs/reinforce-0/run.json"))["flip_rates"]["checked"] == 8
    (row, *_) = [row for row in read_jsonl(Path("data/runs/reinforce-0/log.jsonl")) if "reward/observed" in row]
    ones = (row["reward/observed"] * 0.4 + 0.3) * 32  # undone, a whole number of rewards of 1
    assert ones == pytest.approx(round(ones), abs=1e-4)


def test_values_that_cannot_be_flipped_are_named(project: Record) -> None:
    Path("large.py").write_text("def score(prompts, responses, **columns):\n    return [7.0] * len(responses)\n")
    noisy = observed.observed_reward(params("large.py:score", noise=[{"kind": "flip", "false_negative": 1.0}]), ChainTask(2), 0, HERE)
    with pytest.raises(UserError, match=r"^a reward of 7 \(problem 'a'\) cannot be flipped: .* need rewards from 0 to 1$"):
        noisy(["?"], ["+1"], id=["a"], answer=["1"], label=["1"], step=0, samples=[0])


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ("my_rewards", "", "write FILE.py:NAME, the file and what to take from it"),
        ("my_rewards.py:", "", "write FILE.py:NAME"),
        ("nowhere.py:score", None, "no file nowhere.py in .*; correct the path"),
        ("broken.py:score", "x = 1\ndef score(:\n", "broken.py, line 2: invalid syntax; correct it"),
        ("odd.py:score", "return 1\n", "odd.py, line 1: 'return' outside function"),
        ("other.py:score", "def scores(): ...\n", r"other.py defines no score at its top \(did you mean scores\?\); define it, or correct"),
        ("inner.py:score", "def outer():\n    def score(): ...\n", "inner.py defines no score at its top; define it, or correct"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, text: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(spec.partition(":")[0]).write_text(text)
    for look in (preflight.check, lambda params: observed.own_reward(params)):
        with pytest.raises(UserError) as error:
            look(params(spec))
        assert re.search(f"^reward.function = '{spec}': .*{message}", str(error.value)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import os\n\nimport no_such_module\nscore = 1\n",
            r"own.py, line 3, cannot be run \(ModuleNotFoundError: No module named 'no_such_module'\)",
        ),
        (
            "def score(): ...\n\ndef f():\n    1 / 0\nf()\n",
            r"own.py, line 4, cannot be run \(ZeroDivisionError: division by zero\); correct it",
        ),
        ("score = 3\n", r"score is 3 \(int\), which cannot be called; name a function or a class"),
        ("from math import *\n", "own.py has no score after it ran; define it in every case"),
    ],
)
def test_mistakes_that_only_running_shows_are_named_when_it_is_used(tmp_path, monkeypatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(text)
    chosen = params("own.py:score")
    preflight.check(chosen)
    with pytest.raises(UserError) as error:
        observed.observed_reward(chosen, None, 0, HERE)
    assert re.search(f"^reward.function = 'own.py:score': {message}", str(error.value)) and "\n" not in str(error.value)


def test_a_check_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("open('ran', 'w')\nif True:\n    from math import sqrt as score\n")
    preflight.check(params("own.py:score"))
    assert not Path("ran").exists() and own_code.digest(params("own.py:score")) != ""
    assert own_code.load("own.py:score", tmp_path)(4) == 2.0 and Path("ran").exists()
    assert own_code.digest(params("own.py:score", reward={"kind": "rule"})) == ""


def test_a_function_must_be_named_and_want_columns_that_are_there(project: Record) -> None:
    with pytest.raises(ValueError, match="kind = 'function': set function too, to file.py:name, e.g. my_rewards.py:score"):
        Params(reward={"kind": "function"})
    with pytest.raises(UserError, match="wants colour, which is no column of the data; there are prompts, .*id, answer, label"):
        observed.observed_reward(params("my_rewards.py:picky"), None, 0, HERE)


def test_a_run_left_by_a_kill_is_not_gone_on_with_after_an_edit(project: Record) -> None:
    keys = []
    for text in ("def score(prompts, responses): ...\n", "def score(prompts, responses): ...  # edited\n"):
        Path("edited.py").write_text(text)
        keys.append(train._key(params("edited.py:score")))
    assert keys[0] != keys[1]


def test_a_study_s_cell_finds_it_by_the_same_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/rewards.py").write_text("def score(prompts, responses, **_):\n    return [0.25] * len(responses)\n")
    cell = Cell("small", "own", {}, "reinforce", 0, params("own/rewards.py:score"), "run", cold_start=0.0)
    for stage in cells.shared():
        cells.run_stage(stage, cell.params)
    line = cells.run_cell(cell)
    assert {value for value in line["log"]["reward/observed"] if value is not None} == {0.25} and line["noise"]["reward"] == "function"


def test_reports_name_it(project: Record) -> None:
    noise = {"kind": "own_reward", "reward": "function", "function": "my_rewards.py:score", "channels": [{"description": "tails"}]}
    summary = {
        "methods": {},
        "profile": "",
        "champion": None,
        "missing_runs": [],
        "runs": [{"noise": noise}],
        "label": {"label_accuracy": 0.7},
    }
    run = SimpleNamespace(evaluation={"noise": noise}, seed=0)
    assert dict(sections.facts([run], summary))["Noise"] == "own reward, my_rewards.py:score, tails"
    assert sections._labels(summary, {"labels_table": ""})["rows"] == [["set: noise on rewards", "tails"]]  # it need not read labels


def test_dvc_watches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage leads dvc.yaml's paths to the files that parameters name: an edit there is one of a dependency."""
    root = Path(__file__).parents[2]
    deps = {name: stage["deps"] for name, stage in yaml.safe_load((root / "dvc.yaml").read_text())["stages"].items()}
    assert {name for name in deps if "data/own/${domain}" in deps[name]} == deps.keys() - {"params"}
    assert {name for name in deps if "data/own/${reward.kind}" in deps[name]} == {"train", "evaluate"}
    monkeypatch.chdir(tmp_path)
    for name in ("first.py", "second.py"):
        Path(name).write_text(f"# {name}\ndef score(prompts, responses): ...\n")
        resolve.run(params(f"{name}:score"))
        assert Path("data/own/function").resolve() == tmp_path / name and Path("data/own/math").read_text() == resolve.NO_CODE
    (tmp_path / "moved").mkdir()
    for name in ("data", "second.py"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert Path("moved/data/own/function").read_text().startswith("# second.py")
    monkeypatch.chdir(tmp_path / "moved")
    resolve.run(params("second.py:score", reward={"kind": "rule"}))
    assert Path("data/own/rule").read_text() == resolve.NO_CODE


def test_dvc_sees_an_edit_through_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a graph of one stage, by the path that dvc.yaml has."""
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def score(prompts, responses): ...\n")
    resolve.run(params("own.py:score"))
    Path("params.yaml").write_text("reward: {kind: function}\n")
    Path("dvc.yaml").write_text('stages:\n  train:\n    cmd: "true"\n    deps: ["data/own/${reward.kind}"]\n')
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
        assert repo.status() == {}
        Path("own.py").write_text("def score(prompts, responses): ...  # edited\n")
        assert repo.status() == {"train": [{"changed deps": {"data/own/function": "modified"}}]}


def test_noise_on_material_of_one_s_own_is_warned_of(project, capsys) -> None:
    resolve.run(params(noise=[FLIP]))
    assert "warning: noise acts on reward.function = my_rewards.py:score too (" in capsys.readouterr().err
    assert resolve.own_material(Params(noise=[FLIP])) == "" == resolve.own_material(params())
    assert resolve.own_material(Params(noise=[FLIP], prepare={"dataset": "mine.jsonl"})) == "prepare.dataset = mine.jsonl"
