"""Runs for `accelerate launch`: the main process prints the number of processes and the log of each method as JSON. Arguments: checkpoint
folder, where to stop, methods."""

import json
import sys
from pathlib import Path

import torch
from tiny import timeless, trainer

from vrpo.tasks.math.chain import ChainTask, generate_problems, new_tokenizer
from vrpo.training.trainer import Trainer


def few() -> Trainer:
    """A run of one row an iteration and one to validate on: of two processes one has nothing to do."""
    made = generate_problems(1, 0, 1, 3, set())
    problems = [{"prompt": ChainTask(max_length=3).prompt(row["question"]), "answer": row["answer"]} for row in made]
    changes = {"kl_coefficient": 0.1, "rollouts": 12, "minibatches": 1, "critic": {"warmup_rollouts": 9}}
    return trainer(new_tokenizer(), problems, "vrpo", changes=changes)


def main(method: str, folder: str, last: int) -> None:
    task = ChainTask(max_length=3)
    rows = generate_problems(40, 0, 1, 3, set())
    problems = [{"prompt": task.prompt(row["question"]), "answer": row["answer"]} for row in rows]
    path = Path(folder) / f"{method}.safetensors"
    changes = {"micro_batch_size": 5, "kl_coefficient": 0.1, "minibatches": 16}  # VRPO's batches of one row leave a process without any
    run = trainer(new_tokenizer(), problems, method, changes=changes, checkpoint=path)
    run.config = run.config.model_copy(update={"iterations": last})  # the first half of a run that is to be resumed
    log = run.run()
    run.save_pretrained(folder)
    if run.processes.is_main:
        print("LOG", run.processes.count, json.dumps(timeless(log)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[3:]:  # one after the other: to start processes costs more than to train
        main(name, sys.argv[1], int(sys.argv[2]))
