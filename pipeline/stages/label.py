"""Noisy supervision: pseudo-labels by majority vote over samples of the base model, and what they are worth.

Writes data/labels/train.jsonl and test.jsonl (the test labels measure the gap between observed and clean reward, nothing
else) and noise.json, what they are worth. Clean answers
stay beside the labels for measurement only.
"""

from __future__ import annotations

import sys
from typing import Any

from pipeline import files
from pipeline.params import LabelConfig, Params
from pipeline.stages import stage
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError

FEW = 0.5  # share of labelled problems below which the vote is warned of
CURE = "label.source: clean takes the data's own answers instead, label.votes asks the model more often"


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Label both splits; returns label accuracy and the confusion of label-based rewards."""
    splits = {name: files.read_jsonl(workspace.prepared / f"{name}.jsonl") for name in ("train", "test")}
    if params.label.source == "majority_vote":
        votes = _vote(params, splits, workspace)
    else:
        votes = {name: (_given(rows, name, params.label.source), []) for name, rows in splits.items()}
    from pipeline.domains import load_task

    task = load_task(params)
    answers = sorted({task.canonical(row["answer"]) for row in splits["train"]})
    metrics: dict[str, Any] = {}
    for name, rows in splits.items():
        labels, sampled = votes[name]
        labels = [_wrong_reference(task, label, row["id"], answers, params.label) for label, row in zip(labels, rows, strict=True)]
        agreement = task.verify([task.canonical_response(label or "") for label in labels], [row["answer"] for row in rows])
        written = [
            {"id": row["id"], "label": label, "clean": row["answer"], "correct": correct}
            for row, label, correct in zip(rows, labels, agreement, strict=True)
            if label is not None
        ]
        if not written:
            raise UserError(
                f"label.source = 'majority_vote': the base model {params.base.source!r} gave no readable answer to any {name} problem; {CURE}"
            )
        if len(written) < FEW * len(rows):
            share = f"{len(written)} of {len(rows)} {name} problems"
            print(f"warning: only {share} got a label, to the others the base model gave no readable answer; {CURE}", file=sys.stderr)
        files.write_jsonl(workspace.labels / f"{name}.jsonl", written)
        known = [row["correct"] for row in written if row["correct"] is not None]
        right = sum(known) / len(known) if known else None
        metrics |= {f"{name}/label_accuracy": right, f"{name}/unlabelled": 1 - len(written) / len(rows)}
        if sampled and name == "train":
            metrics |= _reward_confusion(task, rows, labels, sampled)
    noise = {
        "kind": params.label.source,
        "label_accuracy": metrics["train/label_accuracy"],
        "wrong_reference_rate": params.label.wrong_reference_rate,
        "confusion": {key: metrics[key] for key in ("true_positive_rate", "false_positive_rate", "youden_j") if key in metrics},
    }
    files.write_json(workspace.labels / "noise.json", noise)
    return metrics


def _given(rows: list[dict[str, Any]], name: str, source: str) -> list[str | None]:
    """Labels that need no model: the rows' own, or their clean answers. Test rows have no labels of their own."""
    unlabelled = [row["id"] for row in rows if row.get("label") is None]
    if source == "dataset" and name == "train" and unlabelled:  # their clean answers would pass for noisy labels
        raise UserError(
            f"label.source = 'dataset', but {len(unlabelled)} of {len(rows)} training rows have no `label`, e.g. {unlabelled[0]}; "
            "add it, remove these rows, or use majority_vote or clean"
        )
    return [row.get("label", row["answer"]) if source == "dataset" else row["answer"] for row in rows]


def _vote(
    params: Params, splits: dict[str, list[dict[str, Any]]], workspace: Workspace
) -> dict[str, tuple[list[str | None], list[list[str]]]]:
    """Majority labels and the samples behind them, per split."""
    from pipeline.domains import load_task
    from vrpo.models.loading import load_policy
    from vrpo.rewards.labels import majority_vote
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import sample_texts

    model, tokenizer = load_policy(workspace.base, params.runtime)
    task = load_task(params, tokenizer)
    sampler = new_sampler(model, tokenizer, params.generation.model_copy(update={"temperature": params.label.temperature}))
    votes = {}
    for name, rows in splits.items():
        prompts = [task.prompt(row["question"]) for row in rows]
        texts, _ = sample_texts(sampler, prompts, params.label.votes, seed=("label", params.label.seed, name), progress=f"vote {name}")
        answers = [[task.extract(text, row.get("choices", ())) for text in group] for row, group in zip(rows, texts, strict=True)]
        votes[name] = ([majority_vote(group)[0] for group in answers], texts)
    return votes


def _wrong_reference(task: Any, label: str | None, problem: str, answers: list[str], config: LabelConfig) -> str | None:
    """With the declared rate a wrong reference instead of the label; fixed for the whole run."""
    from vrpo.seeding import derive_seed, uniform

    if label is None or uniform("wrong reference", config.seed, problem) >= config.wrong_reference_rate:
        return label
    return task.wrong_reference(label, answers, derive_seed("which", config.seed, problem))


def _reward_confusion(task: Any, rows: list[dict[str, Any]], labels: list[str | None], sampled: list[list[str]]) -> dict[str, float]:
    """How a reward by label relates to the clean reward on the base model's own samples."""
    from vrpo.rewards.labels import confusion

    flat = [text for group in sampled for text in group]

    def repeat(values: list[str | None]) -> list[str]:
        return [value or "" for value, group in zip(values, sampled, strict=True) for _ in group]

    clean = task.verify(flat, repeat([row["answer"] for row in rows]))
    metrics = confusion(task.verify(flat, repeat(labels)), clean)
    known = [score for score in clean if score is not None]
    return {key: value for key, value in metrics.items() if value == value} | ({"base_accuracy": sum(known) / len(known)} if known else {})


if __name__ == "__main__":
    stage.main("label", run, __doc__)
