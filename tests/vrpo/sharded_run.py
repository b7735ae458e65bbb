"""Sharded runs in several processes, for tests. Arguments: `steps` or `train`, a folder for results, the sharding, the step in which one process
dies (0: none), names of runs."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from tiny import METHODS, timeless, trainer
from torch.distributed.tensor import DTensor

from vrpo.models import lm_head
from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer
from vrpo.training.sharding import whole_tensor
from vrpo.training.trainer import Trainer

LORA = {"lora": {"rank": 2}}
SHARED = {"critic": {"backbone": "shared"}}
RUNS = {  # method and changes of its parameters, by name
    **{method: (method, {}) for method in METHODS},
    "asyppo": ("asyppo", {}),
    "pf_ppo": ("pf_ppo", {}),
    "distributional": ("ppo", {"critic": {"kind": "distributional", "settings": {"quantiles": 12, "heads": 2}}}),
    "sao": ("ppo", {"critic": {"kind": "sao"}}),
    "ppo_shared": ("ppo", SHARED),
    "vrpo_shared": ("vrpo", SHARED),
    "vrpo_learned": ("vrpo", {"critic": {"semantic_head": "learned"}}),
    "vrpo_surprisal": ("vrpo", {"critic": {"surprisal_inputs": True}}),
    "vrpo_shared_surprisal": ("vrpo", {"critic": {"backbone": "shared", "surprisal_inputs": True}}),
    "grpo_lora": ("grpo", LORA),
    "ppo_lora": ("ppo", LORA),
    "vrpo_lora_shared": ("vrpo", LORA | SHARED),
    "vrpo_lora_surprisal": ("vrpo", LORA | {"critic": {"surprisal_inputs": True}}),
    "regulated_lora": ("regulated", LORA),
    "vrpo_recomputed": ("vrpo", {"gradient_checkpointing": True}),
    "vrpo_offloaded": ("vrpo", {"sharding": "full", "offload": True}),
    "grpo_chunked": ("grpo", {}),
    "vrpo_shared_chunked": ("vrpo", SHARED),
    "vrpo_bfloat16": ("vrpo", {}),
    "vrpo_float16": ("vrpo", {}),
    "regulated_states": ("regulated", {"critic": {"settings": {"inputs": "states"}}}),
}
PRECISIONS = {"vrpo_bfloat16": "bfloat16", "vrpo_float16": "float16"}


def new_run(name: str, sharding: str | None = None, **options) -> Trainer:
    method, changes = RUNS[name]
    changes = {"micro_batch_size": 5, "kl_coefficient": 0.1, "sharding": sharding} | changes
    made = generate_problems(40, 0, 1, 3, set())
    problems = [
        {"prompt": ChainTask(max_length=3).prompt(row["question"]), "id": str(i), "answer": row["answer"]} for i, row in enumerate(made)
    ]
    return trainer(new_tokenizer(), problems, method, changes=changes, precision=PRECISIONS.get(name, "float32"), **options)


def whole_weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: whole_tensor(tensor.detach()).clone() for name, tensor in run.updater.models.named_parameters()}


def three_steps(name: str, sharding: str | None = None) -> tuple[Trainer, dict]:
    """What three steps leave: on shares of unequal size, of unequal numbers of micro-batches, and on one row, so that other processes have none."""
    run = new_run(name, sharding)
    with patch.object(lm_head, "CHUNK_ELEMENTS", 200 if name.endswith("chunked") else lm_head.CHUNK_ELEMENTS):
        return run, _three_steps(run)


def _three_steps(run: Trainer) -> dict:
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
    return {
        "losses": timeless(losses),
        "gradients": gradients,
        "weights": whole_weights(run),
        "saved": dict(run.sharding.whole(run.policy)),
    }


def steps(folder: Path, name: str, sharding: str) -> None:
    run, found = three_steps(name, sharding)
    models = [run.updater.models, *([run.reference] if run.reference is not None else [])]
    assert all(isinstance(tensor, DTensor) for model in models for tensor in model.parameters())
    if run.processes.is_main:
        torch.save(found, folder / f"{name}.pt")


def train(folder: Path, name: str, sharding: str, last: int) -> None:
    """Train from the checkpoint, if there is one, to the end and save the models; or kill the second process in its optimiser step `last`."""
    run, count, step = new_run(name, sharding=sharding, checkpoint=folder / name), 0, None

    def counted(*arguments):
        nonlocal count
        count += 1
        if count == last and run.processes.index == 1:
            os._exit(1)
        return step(*arguments)

    step, run.updater.step = run.updater.step, counted
    log = run.run()
    run.save_pretrained(folder / f"{name}-models")
    if run.processes.is_main:
        (folder / f"{name}.json").write_text(json.dumps(timeless(log)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder, sharding, last, *names = sys.argv[1:]
    for name in names:  # one after the other: to start processes costs more than to train
        steps(Path(folder), name, sharding) if what == "steps" else train(Path(folder), name, sharding, int(last))
