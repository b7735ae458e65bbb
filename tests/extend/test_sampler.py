"""An engine is one file: docs/extend_sampler.md trains in a copy of the library, and whatever else needs responses finds it too."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.params import Params
from pipeline.study.file import cell_key
from vrpo.config import GenerationConfig

ROOT = Path(__file__).parents[2]
RECIPE = re.search(r"^```python\n(.*?)^```$", (ROOT / "docs/extend_sampler.md").read_text(), re.DOTALL | re.MULTILINE)[1]
RUN = """
import json
import torch
from tiny import count_digits, config, tiny_policy
from vrpo import Trainer
from vrpo.config import GenerationConfig
from vrpo.models.forward import policy_forward
from vrpo.rollout.sampler import new_sampler
from vrpo.rollout.samples import sample_texts
from vrpo.tasks.math.chain import new_tokenizer

tokenizer, lora, found = new_tokenizer(), json.loads(input()), {}
problems = [{"prompt": f"{i % 10}+{i % 7}.:", "id": str(i)} for i in range(40)]
policy, generation = tiny_policy(tokenizer), GenerationConfig(max_new_tokens=8, max_turns=2, engine="half")
settings, tokenizer.chat_template = config(iterations=2, lora=lora), "{% for m in messages %}{{ m['content'] }}.{% endfor %}"
options = {"generation": generation, "validation": problems[:6], "environment": lambda row, turns: "1+" if len(turns) < 2 else None}
run, drawn, versions = Trainer(settings, policy, tokenizer, problems, count_digits, method="vrpo", **options), [], []
sampler = run.collector.sampler
sample, load = sampler.sample, sampler.model.load_state_dict
sampler.sample = lambda *prompts, **options: drawn.append(sample(*prompts, **options)) or drawn[-1]
sampler.model.load_state_dict = lambda weights: versions.append(sampler.version) or load(weights)
log = run.run()
experience, _ = run.collect(problems[:16], [0] * 16, iteration=2)
mask, own = experience.response_mask, drawn[-2].logprobs  # of the first turn
with torch.no_grad():
    right = policy_forward(run.policy, experience, 1.0).logprobs
print(json.dumps({
    "engine": type(sampler).__name__,
    "rows": len(log),
    "versions": versions,
    "updates": run.policy_updates,
    "off": float((experience.logprobs - right)[mask].abs().max()),
    "engine_off": float((own - right[:, : own.shape[1]])[drawn[-2].response_mask].abs().max()),
    "stale": max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(
        sampler.model.state_dict().values(), dict(run.collector._weights()).values(), strict=True)),
    "texts": len(sample_texts(new_sampler(policy, tokenizer, generation), ["1+1.:"], 3, seed=(0,))[0][0]),
}))
"""


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_an_engine_with_weights_of_its_own_is_one_file(tmp_path: Path, lora: dict | None) -> None:
    shutil.copytree(ROOT / "vrpo", tmp_path / "vrpo", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vrpo/rollout/engines/half.py").write_text(RECIPE)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'tests/vrpo'}"}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, input=json.dumps(lora), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["engine"], found["rows"], found["texts"]) == ("HalfSampler", 3, 3)
    assert found["updates"] == 4 and found["versions"] == [None, 0, 2]  # read once for each version that samples, not each time
    assert found["stale"] < 0.01  # what it samples from is the policy, rounded
    assert found["off"] < 1e-5 < 1e-3 < found["engine_off"]  # ratios are those of the policy, not of its rounded copy


def test_an_engine_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="Input should be 'transformers'"):
        GenerationConfig(engine="half")


def test_the_choice_of_an_engine_names_no_earlier_run_anew() -> None:
    """Parameters of before there was a choice are those of the default: digests, checkpoints and data/params.yaml stay as they are."""
    params = Params(generation={"engine": "transformers"})
    assert "engine" not in params.model_dump()["generation"] and "engine" not in params.model_dump_json()
    other = params.model_copy(update={"generation": params.generation.model_copy(update={"engine": "half"})})
    assert cell_key("run", "ppo", 0, params, "") == cell_key("run", "ppo", 0, Params(), "") != cell_key("run", "ppo", 0, other, "")
