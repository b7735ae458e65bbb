"""Steps of sharded runs in several processes, for tests: each process is this file, with what to run and where to leave its results."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny import timeless, trainer
from torch.distributed.tensor import DTensor

from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer
from vrpo.training.sharding import whole_tensor
from vrpo.training.trainer import Trainer

VOCABULARY_LORA = {"rank": 2, "target_modules": "all-linear"}
RUNS = {  # method and changes of its parameters, by name
    "grpo": ("grpo", {}),
    "ppo": ("ppo", {}),
}


def new_run(name: str, **options) -> Trainer:
    method, changes = RUNS[name]
    made = generate_problems(40, 0, 1, 3, set())
    problems = [
        {"prompt": ChainTask(max_length=3).prompt(row["question"]), "id": str(i), "answer": row["answer"]} for i, row in enumerate(made)
    ]
    return trainer(new_tokenizer(), problems, method, changes={"micro_batch_size": 5, "kl_coefficient": 0.1} | changes, **options)


def whole_weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: whole_tensor(tensor.detach()).clone() for name, tensor in run.updater.models.named_parameters()}


def three_steps(run: Trainer) -> dict:
    """What three steps leave: on shares of unequal size, of unequal numbers of micro-batches, and on one row, so that other processes have none."""
    group = run.algorithm.group_size
    problems = [problem for problem in run.problems[: 12 // group] for _ in range(group)]
    experience, metrics = run.collect(problems, list(range(len(problems))), iteration=1)
    noise = run.algorithm.critic.noise(experience, 0) if run.critic is not None else None
    experience = replace(experience, latent_noise=noise)
    losses, gradients = [metrics], {}
    for batch in (experience[:11], experience[:3], experience[4:5]):
        losses.append(run.updater.step(batch, 1, True, "critic" in run.updater.optimizers))
        gradients = gradients or {
            name: whole_tensor(tensor.grad).clone() for name, tensor in run.updater.models.named_parameters() if tensor.grad is not None
        }
    return {"losses": timeless(losses), "gradients": gradients, "weights": whole_weights(run)}


def main(folder: str, sharding: str, names: list[str]) -> None:
    for name in names:
        run = new_run(name.removesuffix("+"))
        if sharding != "null":
            assert all(isinstance(tensor, DTensor) for tensor in run.updater.models.parameters())
        found = three_steps(run)
        if run.processes.is_main:
            torch.save(found, Path(folder) / f"{name}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    RUNS = {name: (method, changes | {"sharding": sys.argv[2]}) for name, (method, changes) in RUNS.items()}
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
