"""An algorithm and a critic are one file each: those of the recipes in docs/, put into a copy of the library, train there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import json, sys
from pathlib import Path
import torch
import vrpo.kinds
from tiny import count_digits, trainer, weights
from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError
from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer

tokenizer, task = new_tokenizer(), ChainTask(max_length=3)
problems = [{"prompt": task.prompt(row["question"]), "answer": row["answer"]} for row in generate_problems(40, 0, 1, 3, set())]

def run(method, folder=None, settings=None, **changes):
    if settings is not None:
        changes["critic"] = {"kind": "mine", "settings": settings}
    made = trainer(tokenizer, problems, method, changes={"iterations": 2, "rollouts": 72, **changes}, clean_reward=count_digits)
    log = made.run()
    if folder:
        made.save_pretrained(folder)
    return made, log

def refused(make):
    try:
        make()
    except (UserError, ValueError) as error:
        return str(error)

def apart(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))

found = {"where": vrpo.kinds.__file__}
median, found["median"] = run("mine")
found["median_split"] = apart(median, run("mine", micro_batch_size=5)[0])
critic, found["quantiles"] = run("ppo", "saved", {"quantiles": 4})
found["quantiles_split"] = apart(critic, run("ppo", settings={"quantiles": 4}, micro_batch_size=5)[0])
found["vrpo_loses_its_own"] = sorted(run("vrpo", settings={})[1][-1])
found["head"] = json.loads(Path("saved/value_model/value_head.json").read_text())
found["outputs"] = ValueModel.from_pretrained("saved/value_model").head.decoder[-1].weight.shape[0]
found["no_method"] = refused(lambda: run("mien"))
found["no_kind"] = refused(lambda: run("ppo", critic={"kind": "mien"}))
found["no_setting"] = refused(lambda: run("ppo", settings={"quantile": 4}))
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """What TRAIN finds in a copy of the library with the two files of the recipes."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "vrpo", copy / "vrpo", ignore=shutil.ignore_patterns("__pycache__"))
    for recipe, room in (("extend_algorithm", "algorithms"), ("extend_critic", "critics")):
        (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / f"docs/{recipe}.md").read_text(), flags=re.DOTALL | re.MULTILINE)
        (copy / "vrpo" / room / "mine.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{copy}:{ROOT / 'tests/vrpo'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.rpartition("FOUND ")[2])
    assert Path(told["where"]).is_relative_to(copy)
    return told


def test_an_algorithm_of_one_file_trains_with_a_loss_of_its_own(found: dict) -> None:
    *_, last = found["median"]
    assert last["iteration"] == 2 and last["policy/grad_norm"] > 0 and last["policy/surprisal"] > 0
    assert "policy/clip_fraction" not in last and "critic/ev_observed" not in last
    assert found["median_split"] < 1e-5


def test_a_critic_of_one_file_trains_under_ppo_and_is_saved_with_its_head(found: dict) -> None:
    first, *_, last = found["quantiles"]
    assert first["critic/grad_norm"] > 0 and last["critic/quantile"] > 0 and last["critic/spread"] > 1e-3 and "critic/corr_mc" in last
    assert "critic/mse" not in last and last["policy/grad_norm"] > 0
    assert found["head"] == {"depth": 0, "latent_size": 1, "outputs": 4, "head": ["mine", "QuantileHead"]} and found["outputs"] == 4
    assert "critic/quantile" in found["vrpo_loses_its_own"] and "critic/semantic" not in found["vrpo_loses_its_own"]
    assert found["quantiles_split"] < 1e-5


def test_both_are_among_the_known_names_and_settings_are_checked(found: dict) -> None:
    assert found["no_method"] == (
        "method = 'mien': no such method; use one of dr_grpo, grpo, mine, oracle, ppo, reinforce, reinforce_pp, rloo, vrpo"
    )
    assert "'mine', 'plain' or 'variational'" in found["no_kind"]
    assert "train.critic.settings.quantile: " in found["no_setting"]


@pytest.mark.parametrize("page", ["extend_algorithm", "extend_critic"])
def test_recipes_are_short(page: str) -> None:
    assert len((ROOT / f"docs/{page}.md").read_text().splitlines()) <= 45
