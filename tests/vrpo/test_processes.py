"""Two CPU processes under `accelerate launch` do what one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distributed_run
import pytest
import torch
from distributed_run import few
from tiny import timeless, trainer

ROOT = Path(__file__).parents[2]
# Where there is no GPU, --multi_gpu starts CPU processes; with --cpu there would be one, whatever --num_processes says.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCH += ["--dynamo_backend", "no", "--main_process_port", "0"]


METHODS = ("vrpo", "grpo")


def run(folder: Path, last: int) -> list[list[dict[str, float]]]:
    """Logs of all methods in two processes."""
    script = str(Path(__file__).with_name("distributed_run.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *LAUNCH, script, str(folder), str(last), *METHODS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("LOG ")]
    assert [int(processes) for _, processes, _ in lines] == [2] * len(METHODS)
    return [json.loads(log) for _, _, log in lines]


def test_two_processes_give_the_losses_of_one_and_resume_together(tmp_path, capsys) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    for method in METHODS:
        distributed_run.main(method, str(alone), 3)
    ones = [json.loads(line.removeprefix("LOG 1 ")) for line in capsys.readouterr().out.splitlines() if line.startswith("LOG ")]
    run(together, 2)
    for method, one, two in zip(METHODS, ones, run(together, 3), strict=True):
        assert len(one) == len(two) == 4
        for a, b in zip(one, two, strict=True):
            assert a.keys() <= b.keys(), method  # the stopped run measured once more, at its end
            assert {key: b[key] for key in a} == pytest.approx(a, abs=1e-4), method
    assert (together / "policy/model.safetensors").is_file()


def test_a_process_without_rows_takes_part_in_every_step() -> None:
    """One row to sample, score, read, learn from and validate on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    code = "import json; from distributed_run import few; from tiny import timeless; print('LOG', json.dumps(timeless(few().run())))"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    common = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    one = timeless(few().run())
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        (line,) = [line for line in output.splitlines() if line.startswith("LOG ")]
        for a, b in zip(one, json.loads(line.partition(" ")[2]), strict=True):
            assert b == pytest.approx(a, abs=1e-4)


def test_a_process_without_rows_keeps_step_with_the_others_gradient_scale(tokenizer, problems, monkeypatch) -> None:
    run = trainer(tokenizer, problems, "ppo", precision="float16")
    experience, _ = run.collect(problems[:1], [0], iteration=1)
    monkeypatch.setattr(run.processes, "share", lambda size: slice(0, 0))

    def sum_gradients(parameters) -> None:  # of the others
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)

    monkeypatch.setattr(run.processes, "sum_gradients", sum_gradients)
    assert run.updater.step(experience, 1, True, True)["policy/grad_norm"] > 0
