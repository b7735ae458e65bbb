"""A noise channel of one's own is one file, as docs/extend_noise.md has it, in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = re.search(r"```python\n(.*?)```", (ROOT / "docs/extend_noise.md").read_text(), flags=re.DOTALL).group(1)
PROGRAM = """
import json
from pathlib import Path
from pipeline.params import load_params
from pipeline.reporting import sections
from pipeline.reporting.runs import Run
from pipeline.stages import base, evaluate, label, prepare, reward, sft, train
from pipeline.tracking.file import Record
from pipeline.tracking.record import start_event

params = load_params()
record = Record(Path("data/tracking/all.jsonl"), start_event("train-reinforce-0", stage="train", params=params, arguments=("reinforce", 0)))
for stage in (prepare, base, label, sft, reward):
    stage.run(params, record=record)
train.run(params, "reinforce", 0, record=record)
evaluate.run(params, "reinforce", 0, record=record)
evaluation = json.loads(Path("data/evaluations/reinforce-0.json").read_text())
summary = {"machine": dict.fromkeys(("cpus", "processor", "memory_gb", "python", "torch")), "methods": ["reinforce"], "profile": "mini", "git": ""}
facts = sections.facts([Run("reinforce", 0, evaluation)], summary | {"champion": None, "missing_runs": []})
print(json.dumps({"facts": dict(facts), "log": [json.loads(line) for line in Path("data/runs/reinforce-0/log.jsonl").read_text().splitlines()]}))
"""
BIAS = "0.002 more in units of reward for each character, up to 1.25"


def start(copy: Path, *command: str) -> str:
    """What a command in the copy prints."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "MLFLOW_TRACKING_URI": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("vrpo", "pipeline", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "vrpo/rewards/noise/mine.py").write_text(RECIPE)
    return folder


def write(copy: Path, **changes: object) -> None:
    train = {"iterations": 2, "rollouts": 64, "group_size": 4, "critic": {"warmup_rollouts": 0}}
    sections = {"profile": "mini", "methods": ["reinforce"], "seeds": [0], "train": train, "label": {"source": "clean"}}
    prepare = {"train_size": 32, "validation_size": 8, "test_size": 8, "max_length": 2}
    small = {
        "prepare": prepare,
        "base": {"hidden_size": 16, "layers": 1, "heads": 2, "steps": 10},
        "sft": {"demonstrations": 8, "steps": 2},
    }
    (copy / "params.yaml").write_text(json.dumps(sections | small | {"profiles": {"mini": {}}} | changes))


def test_it_trains_and_is_told_of(copy: Path) -> None:
    channels = [{"kind": "flip", "false_positive": 1.0}, {"kind": "mine", "per_character": 0.002, "limit": 1.25}]
    write(copy, noise=channels)
    found = json.loads(start(copy, "-c", PROGRAM).splitlines()[-1])
    assert f"flips 0 to 1 (100 %) and 1 to 0 (0 %), {BIAS}" in found["facts"]["Noise"]
    rows = [row for row in found["log"] if "reward/observed" in row]
    assert rows[-1]["iteration"] == 2 and all(1.0 < row["reward/observed"] <= 1.25 for row in rows)  # 1 by the flips, the rest by the bias
    (event, *_) = [json.loads(line) for line in (copy / "data/tracking/all.jsonl").read_text().splitlines()]
    assert event["tags"]["noise"].endswith(BIAS) and event["name"].endswith(BIAS)


def test_the_schema_and_its_page_know_it(copy: Path) -> None:
    write(copy, noise=[{"kind": "mine", "per_charakter": 0.01}])
    said = start(copy, "-m", "pipeline.tools.check").splitlines()
    assert said == [
        "error: params.yaml: noise.0.mine.per_character: Field required",
        "params.yaml: noise.0.mine.per_charakter: unknown key; remove it or fix its spelling (did you mean 'per_character'?)",
    ]
    start(copy, "-m", "docs.parameters")
    page = (copy / "docs/parameters.md").read_text()
    assert "## noise: mine\n\nEvery character of a response adds to its reward, up to a limit." in page
    assert "| `per_character` | number | | added for each, in units of reward |" in page


def test_a_correction_asks_for_checked_samples_where_nobody_knows_its_rates(copy: Path) -> None:
    noise = [{"kind": "mine", "per_character": 0.01}]
    write(copy, noise=noise, reward={"correction": "backward"})
    (said,) = start(copy, "-m", "pipeline.tools.check").splitlines()
    assert "with noise {kind: mine, per_character: 0.01, limit: 1.0}: nobody knows how often it flips; set reward.checked_samples" in said
    write(copy, noise=noise, reward={"correction": "backward", "checked_samples": 8})
    assert start(copy, "-m", "pipeline.tools.check") == ""
