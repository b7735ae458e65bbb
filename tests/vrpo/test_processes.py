"""Two CPU processes under `accelerate launch` do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Where there is no GPU, --multi_gpu starts CPU processes; with --cpu there would be one, whatever --num_processes says.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCH += ["--dynamo_backend", "no", "--main_process_port", "0"]


def run(method: str, folder: Path, last: int, launcher: list[str]) -> list[dict[str, float]]:
    script = str(Path(__file__).with_name("distributed_run.py"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, script, method, str(folder), str(last)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOG ")]
    _, processes, log = line.split(" ", 2)
    assert int(processes) == (2 if launcher else 1)
    return json.loads(log)


@pytest.mark.parametrize("method", ["vrpo", "grpo"])
def test_two_processes_give_the_losses_of_one_and_resume_together(tmp_path, method: str) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir(), together.mkdir()
    one = run(method, alone, 3, [])
    run(method, together, 2, LAUNCH)
    two = run(method, together, 3, LAUNCH)
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert a.keys() <= b.keys()  # the stopped run measured once more, at its end
        assert {key: b[key] for key in a} == pytest.approx(a, abs=1e-4)
    assert (together / "policy/model.safetensors").is_file()
