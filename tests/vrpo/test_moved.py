"""Programs outside use the names of before the rooms: each still leads to what it named."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from vrpo.config import GenerationConfig
from vrpo.moved import MODULES


@pytest.mark.parametrize("name", MODULES)
def test_an_old_name_has_the_content_of_the_new_ones(name: str) -> None:
    module, (first, *_) = import_module(name), MODULES[name].split()
    new = import_module(first)
    own = [key for key, value in vars(new).items() if getattr(value, "__module__", None) == new.__name__]
    assert own and all(getattr(module, key) is getattr(new, key) for key in own)
    assert new.__spec__.name == first  # importing it by the old name changes nothing about it


def test_a_program_of_before_samples_and_trains(policy, tokenizer) -> None:
    from vrpo.evaluation import sample_texts
    from vrpo.generation import decode, generate

    (texts,), rollouts = sample_texts(policy, tokenizer, ["1+2.:"], 2, GenerationConfig(max_new_tokens=4), seed=(0,))
    assert len(texts) == 2 and sum(len(rollout) for rollout in rollouts) == 2
    rollout = generate(policy, [[3, 4]], max_new_tokens=4, temperature=1.0, eos_token_id=1, pad_token_id=0, seed=0)
    assert len(decode(tokenizer, rollout)) == 1


def test_commands_of_before_still_run() -> None:
    command = [sys.executable, "-m", "pipeline.train", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "--method METHOD" in done.stdout
