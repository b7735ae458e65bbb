"""Cold start: a few gentle steps on clean demonstrations of training problems (params.sft). Writes data/models/sft."""

from __future__ import annotations

import random
from typing import Any

from pipeline import files
from pipeline.params import Params
from pipeline.stages import stage
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Fine-tune the base model; returns the loss on the first batch, before any update, and on the last ones."""
    from pipeline.domains import load_task
    from vrpo.models.loading import load_policy, save_model
    from vrpo.models.supervised import fit_demonstrations
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import PolicySamples

    sft = params.sft
    model, tokenizer = load_policy(workspace.base, params.runtime.training)
    task = load_task(params, tokenizer)
    rows = files.read_jsonl(workspace.prepared / "train.jsonl")
    if sft.demonstrations > len(rows):
        raise UserError(
            f"sft.demonstrations = {sft.demonstrations}: only {len(rows)} training problems; lower it or raise prepare.train_size"
        )
    rows = random.Random(f"sft-{sft.seed}").sample(rows, sft.demonstrations)
    pairs = [{"prompt": task.prompt(row["question"]), "completion": task.demonstration(row)} for row in rows]
    losses = fit_demonstrations(
        model, tokenizer, pairs, steps=sft.steps, batch_size=sft.batch_size, learning_rate=sft.learning_rate, seed=sft.seed, stage="sft"
    )
    for step, loss in enumerate(losses, 1):
        record.metrics({"loss": loss}, step)
    save_model(model, tokenizer, workspace.sft)
    test = files.read_jsonl(workspace.prepared / "test.jsonl")[: params.evaluate.max_problems]
    model.eval()
    sampler = new_sampler(model, tokenizer, params.generation)
    drawn = PolicySamples.draw(sampler, task, test, params.evaluate.samples, params.evaluate.seed)
    files.write_json(workspace.cold_start, drawn.summary())
    tail = losses[-5:]
    metrics = {"demonstrations": len(pairs), "steps": len(losses), "loss_first": losses[0], "loss_last": sum(tail) / len(tail)}
    metrics["accuracy"] = drawn.summary()["accuracy"]["mean"]
    record.model(workspace.sft, "sft", metrics)
    return metrics


if __name__ == "__main__":
    stage.main("sft", run, __doc__)
