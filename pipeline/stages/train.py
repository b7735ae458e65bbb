"""One cell of the comparison: train one method with one seed on the observed reward.

Writes data/runs/<method>-<seed>/: the policy, the value model, log.jsonl (a row per iteration) and run.json. State between
iterations lives in data/state/, outside DVC's outputs; a run killed at any moment goes on from there with the same result.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline import files, own_code
from pipeline.params import Params
from pipeline.stages import stage
from pipeline.stages.progress import Progress
from pipeline.workspace import HERE, Workspace
from vrpo.config import MEMORY_SETTINGS

Row = dict[str, Any]


def run(params: Params, method: str, seed: int, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Train one method with one seed; returns the last row of the log and the totals."""
    # DVC_ROOT is set by DVC: the checkpoints of an experiment outlive its temporary folder, so that a cancelled one can go on.
    state = Path(os.environ.get("DVC_ROOT", ""), workspace.state, f"{method}-{seed}-{_key(params)}.safetensors")
    progress = Progress(f"{method} seed {seed}", params.train.iterations)

    def on_log(row: dict[str, float]) -> None:
        progress.update(row)
        record.metrics(row, step=int(row["iteration"]))

    def on_resume(rows: list[dict[str, float]]) -> None:
        if rows:  # none where the value warm-up was under way
            progress.resume(int(rows[-1]["iteration"]))
        record.resume(rows)

    trainer = new_trainer(params, method, seed, workspace, checkpoint=state, on_log=on_log, on_resume=on_resume)
    log = trainer.run()
    folder = workspace.runs / f"{method}-{seed}"
    trainer.save_pretrained(folder)
    files.write_jsonl(folder / "log.jsonl", [stage.without_costs(row) for row in log])
    summary = _summary(trainer, method, seed)
    files.write_json(folder / "run.json", summary)
    for path, context in (
        (workspace.prepared / "train.jsonl", "training"),
        (workspace.labels / "train.jsonl", "labels"),
        (workspace.prepared / "validation.jsonl", "validation"),
    ):
        record.dataset(path, context)
    record.model(folder / "policy", "policy", {key: value for key, value in log[-1].items() if key == "validation/accuracy"})
    if trainer.critic is not None:
        record.model(folder / "value_model", "value_model", {key: value for key, value in log[-1].items() if key.startswith("critic/")})
    state.unlink(missing_ok=True)
    return {**log[-1], "health": len(trainer.health), **stage.phases(trainer.timer)}


def new_trainer(params: Params, method: str, seed: int, workspace: Workspace, **options: Any) -> Any:
    """The trainer of one cell, on what the earlier stages left; `options` are further arguments of `vrpo.training.trainer.Trainer`."""
    import torch

    from pipeline.domains import load_oracle, load_task
    from pipeline.stages.observed import clean_reward, corrected_reward, observed_reward
    from vrpo.models.loading import load_policy
    from vrpo.training.trainer import Trainer

    torch.set_num_threads(params.runtime.threads)
    policy, tokenizer = load_policy(workspace.sft, params.runtime.training)
    task = load_task(params, tokenizer)
    problems = _problems(task, "train", workspace, with_labels=True)
    trainer = Trainer(
        params.train,
        policy,
        tokenizer,
        problems,
        corrected_reward(params, observed_reward(params, task, seed, workspace), policy, tokenizer, task, problems, seed),
        method=method,
        seed=seed,
        generation=params.generation,
        precision=params.runtime.dtype,
        environment=task.environment,
        clean_reward=clean_reward(params, task),
        accuracy=lambda prompts, responses, *, answer, **_: task.verify(responses, answer),
        validation=_problems(task, "validation", workspace, with_labels=False),
        **options,
    )
    if method == "oracle":
        trainer.algorithm.success = load_oracle(params, tokenizer)
    return trainer


def _problems(task: Any, split: str, workspace: Workspace, *, with_labels: bool) -> list[Row]:
    """Rows as the trainer wants them. Problems that got no label are left out of training."""
    rows = files.read_jsonl(workspace.prepared / f"{split}.jsonl")
    labels = {row["id"]: row["label"] for row in files.read_jsonl(workspace.labels / "train.jsonl")} if with_labels else None
    return [
        {"prompt": task.prompt(row["question"]), "id": row["id"], "answer": row["answer"]}
        | ({"label": labels[row["id"]]} if labels else {})
        for row in rows
        if labels is None or row["id"] in labels
    ]


def _summary(trainer: Any, method: str, seed: int) -> dict[str, Any]:
    from vrpo.rewards.corrections import CorrectedReward

    first, last = trainer.log[0], trainer.log[-1]
    critic = None
    if trainer.critic is not None:
        critic = {
            f"{name}_{when}": row.get(f"critic/{name}") for name in ("corr_mc", "mse_mc") for when, row in (("start", first), ("end", last))
        }
    return {
        "method": method,
        "seed": seed,
        "iterations": trainer.iteration,
        "rollouts": trainer.rollouts,
        "rollouts_warmup": trainer.algorithm.warmup_rollouts,
        "policy_updates": trainer.policy_updates,
        "accuracy_init": first.get("validation/accuracy"),
        "critic": critic,
        "gain": last.get("critic/gain"),  # of the regulated methods
        "flip_rates": vars(trainer.reward.rates) if isinstance(trainer.reward, CorrectedReward) else None,  # that rewards are corrected for
        "health": [vars(warning) for warning in trainer.health],
    }


def _key(params: Params) -> str:
    """Names the trainer state after every parameter, and the own code, that decides the run. The checkpoint checks the data's hash itself."""
    text = params.model_dump_json(exclude=dict.fromkeys(("profile", "methods", "seeds", "evaluate", "report"), True) | MEMORY_SETTINGS)
    return sha256(f"{text}{own_code.digest(params)}".encode()).hexdigest()[:12]


if __name__ == "__main__":
    stage.main("train", run, __doc__, cell=True)
