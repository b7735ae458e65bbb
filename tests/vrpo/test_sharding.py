"""Sharded over several CPU processes, a run gives the numbers of one process that holds everything whole."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sharded_run import new_run, three_steps
from test_resume import killed
from tiny import assert_same, config, timeless, weights
from torch import nn

from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError
from vrpo.models.loading import load_causal_lm
from vrpo.training.sharding import Sharding, Whole, _sharing, new_sharding

ROOT = Path(__file__).parents[2]


def launch(folder: Path, what: str, *names: str, sharding: str = "full", count: int = 2, machines: int = 1, last: int = 0) -> bool:
    """Run `sharded_run.py` in `count` processes, as if on several machines; when one ends badly the others are killed, as launchers do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": str(count)}
    common |= os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **common}
    here, processes = count // machines, []
    command = [sys.executable, str(Path(__file__).with_name("sharded_run.py")), what, str(folder), sharding, str(last), *names]
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank % here), "LOCAL_WORLD_SIZE": str(here)}
        with (folder / f"errors-{rank}").open("w") as errors:
            processes.append(subprocess.Popen(command, env=common | own, stdout=errors, stderr=errors))
    end = time.monotonic() + 600
    while any(process.poll() is None for process in processes):
        time.sleep(0.1)
        if time.monotonic() > end or any(process.poll() for process in processes):
            for process in processes:
                process.kill()
    well = not any(process.wait() for process in processes)
    assert well or last, "\n".join((folder / f"errors-{rank}").read_text()[-2000:] for rank in range(count))
    return well


def assert_same_steps(folder: Path, name: str) -> None:
    one, several = three_steps(name)[1], torch.load(folder / f"{name}.pt", weights_only=True)
    for alone, together in zip(one["losses"], several["losses"], strict=True):
        assert together == pytest.approx(alone, abs=1e-5, nan_ok=True), name
    for part in ("gradients", "weights", "saved"):
        assert_same(several[part], one[part], 1e-5)


def test_two_processes_take_the_steps_of_one(tmp_path) -> None:
    names = ["grpo_chunked", "vrpo", "vrpo_shared_surprisal", "ppo_lora", "regulated_gradient"]
    launch(tmp_path, "steps", *names, "vrpo_bfloat16")
    for name in names:
        assert_same_steps(tmp_path, name)
    exact, half = (torch.load(tmp_path / f"{name}.pt", weights_only=True)["gradients"] for name in ("vrpo", "vrpo_bfloat16"))
    a, b = (torch.cat([gradient.flatten() for gradient in found.values()]) for found in (exact, half))
    assert (a - b).abs().max() > 0 and torch.cosine_similarity(a, b, dim=0) > 0.95


def test_two_machines_of_two_processes_take_the_steps_of_one(tmp_path) -> None:
    launch(tmp_path, "steps", "vrpo_shared", sharding="hybrid", count=4, machines=2)
    assert_same_steps(tmp_path, "vrpo_shared")


def test_a_run_whose_process_is_killed_goes_on_in_two_and_in_one(tmp_path) -> None:
    """And one that a single process began goes on in two. Models are saved whole."""
    unbroken = {name: new_run(name) for name in ("vrpo", "grpo_lora")}
    logs = {name: timeless(run.run()) for name, run in unbroken.items()}
    assert not launch(tmp_path, "train", "vrpo", last=6)
    assert (tmp_path / "vrpo").is_dir()
    shutil.copytree(tmp_path / "vrpo", tmp_path / "alone")
    shutil.copytree(tmp_path / "vrpo", tmp_path / "spoilt")
    killed(new_run("grpo_lora", checkpoint=tmp_path / "grpo_lora"), 2)
    launch(tmp_path, "train", "vrpo", "grpo_lora")
    alone = new_run("vrpo", checkpoint=tmp_path / "alone")
    for log in (alone.run(), json.loads((tmp_path / "vrpo.json").read_text())):
        for found, expected in zip(timeless(log), logs["vrpo"], strict=True):
            assert found == pytest.approx(expected, abs=1e-5)
    for found, expected in zip(json.loads((tmp_path / "grpo_lora.json").read_text()), logs["grpo_lora"], strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "alone").is_file() and (tmp_path / "grpo_lora").is_dir()
    assert_same(weights(alone), weights(unbroken["vrpo"]), 1e-5)
    saved = tmp_path / "vrpo-models"
    assert_same(load_causal_lm(saved / "policy").state_dict(), unbroken["vrpo"].policy.state_dict(), 1e-5)
    assert_same(ValueModel.from_pretrained(saved / "value_model").head.state_dict(), unbroken["vrpo"].critic.head.state_dict(), 1e-5)
    assert (tmp_path / "grpo_lora-models/policy/model.safetensors").is_file()

    shards = sorted((tmp_path / "spoilt").glob("shard-*"))
    assert len(shards) == 2
    for file in (*shards, tmp_path / "spoilt/meta.json"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(UserError, match="spoilt: broken checkpoint.*delete it to train from the start"):
            new_run("vrpo", checkpoint=tmp_path / "spoilt").run()
        file.write_bytes(whole)
    with pytest.raises(UserError, match="belongs to another run: method was 'vrpo', now 'ppo'"):
        new_run("ppo", checkpoint=tmp_path / "spoilt").run()


def processes(count: int, device: str = "cpu") -> SimpleNamespace:
    return SimpleNamespace(count=count, index=0, is_main=True, device=torch.device(device))


def test_one_process_holds_everything_whole() -> None:
    assert type(new_sharding(config(sharding="full"), "float32", processes(1))) is Whole
    assert type(new_sharding(config(), "float32", processes(2))) is Whole


def test_what_cannot_be_sharded_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="train.sharding = 'hybrid': 3 processes, 2 of them on this machine.*use full"):
        new_sharding(config(sharding="hybrid"), "float32", processes(3))
    monkeypatch.setattr("torch.distributed.get_backend_config", lambda: "cuda:nccl")
    with pytest.raises(UserError, match="train.offload = true.*--fsdp_offload_params true"):
        new_sharding(config(sharding="full", offload=True), "float32", processes(2, "cuda"))
    with pytest.raises(ValueError, match="offload=true without shards"):
        config(offload=True)
    model = nn.Linear(2, 2)
    model.temperature = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(UserError, match="train.sharding: Linear's parameter temperature is a single number"):
        Sharding(processes(2), SimpleNamespace(device_type="cpu"), "float32", False).place(model)


def test_models_that_share_weights_are_one_root() -> None:
    a, b, c, d = (nn.Linear(2, 2) for _ in range(4))
    pair, bridge = nn.ModuleList([a, b]), nn.ModuleList([b, c])
    assert _sharing([a, c, d]) == [[a], [c], [d]]
    assert _sharing([pair, d, bridge]) == [[d], [pair, bridge]]
    assert _sharing([a, c, nn.ModuleList([pair, bridge])])[0][:2] == [a, c]
