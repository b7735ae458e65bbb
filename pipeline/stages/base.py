"""The original model: trained from scratch, or taken from a package, a folder or the hub (params.base.source).

From scratch, a tiny Llama reads worked problems of the domain's generator, none of them held out for validation or test. Their writer slips now
and then, so that the model samples mistakes at a known rate. Writes data/models/base.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from typing import Any

from pipeline import files
from pipeline.domains import load_task
from pipeline.params import Params
from pipeline.stages import stage
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError
from vrpo.tasks.base import PROCEDURAL

CAREFUL_SHARE = 0.6  # first part of the corpus, without slips: they would double the steps until the rules are found


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Make the base model; returns its size and, from scratch, its last losses."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded: two threads that spin starve each other on a busy machine
    if missing := files.left_behind(params.base.source):
        raise UserError(f"base.source = {missing}")
    from vrpo.models import loading

    kind, _, name = params.base.source.partition(":")
    metrics: dict[str, Any] = {}
    if params.base.source == "scratch":
        model, tokenizer, losses = _from_scratch(params, workspace)
        for step, loss in enumerate(losses, 1):
            record.metrics({"loss": loss}, step)
        metrics = {"steps": len(losses), "loss_first": losses[0], "loss_last": sum(losses[-10:]) / len(losses[-10:])}
    elif kind == "package":
        model, tokenizer = loading.from_package(name, device=params.runtime.device)
    else:
        model, tokenizer = loading.load_policy(params.base.source, params.runtime.training)
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    loading.save_model(model, tokenizer, workspace.base)
    record.model(workspace.base, "base", metrics)
    return metrics


def corpus(params: Params, exclude: set[str]) -> list[dict[str, str]]:
    """Prompts and worked answers, one batch of different problems after the other; the careful writer's batches come first.

    Raises:
        UserError: there are not enough problems outside `exclude` for a batch.
    """
    from vrpo.seeding import derive_seed

    base, task, rng = params.base, load_task(params), random.Random(f"base-{params.base.seed}")
    pairs = []
    for step in range(base.steps):
        slip_rate = base.slip_rate if step >= CAREFUL_SHARE * base.steps else 0.0
        seed = derive_seed("base", base.seed, step)
        try:
            problems = task.generate(base.batch_size, seed, exclude)
        except ValueError as error:
            raise UserError(f"base.batch_size = {base.batch_size}: {error}") from None
        for problem in problems:
            completion = task.write(problem, rng, slip_rate)
            pairs.append({"prompt": task.prompt(problem["question"]), "completion": completion})
    return pairs


def _from_scratch(params: Params, workspace: Workspace) -> tuple[Any, Any, list[float]]:
    dataset = params.prepare.dataset
    if dataset != PROCEDURAL:
        raise UserError(
            f"base.source = 'scratch' learns procedural problems only, not prepare.dataset = {dataset!r}; name a model in base.source"
        )
    from vrpo.models.loading import new_llama
    from vrpo.models.supervised import fit_demonstrations

    base = params.base
    # Training questions may appear: there are only 300 of length 1, and a model that never saw one cannot answer them.
    held_out = {row["question"] for split in ("validation", "test") for row in files.read_jsonl(workspace.prepared / f"{split}.jsonl")}
    tokenizer = load_task(params).new_tokenizer()
    model = new_llama(tokenizer, base.hidden_size, base.layers, base.heads, base.seed).to(params.runtime.device)
    pairs = corpus(params, held_out)
    # The order of the corpus matters (see CAREFUL_SHARE); its problems are independent draws, so nothing is lost without shuffling.
    options = {"steps": base.steps, "batch_size": base.batch_size, "learning_rate": base.learning_rate, "seed": base.seed}
    with _threads(max(params.runtime.threads, min(2, os.cpu_count() or 1))):
        return model, tokenizer, fit_demonstrations(model, tokenizer, pairs, **options, stage="base", shuffle=False)


@contextmanager
def _threads(count: int):
    """Let torch use `count` threads: runtime.threads leaves room for two training processes, but base runs alone (1.5 x faster)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    stage.main("base", run, __doc__)
