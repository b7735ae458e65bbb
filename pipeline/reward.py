"""Reward model, where params.reward.kind asks for one: trained on noisy preference pairs, checked on held-out clean ones.

A pair is a right and a wrong response of the cold start to one training problem. Writes data/models/reward, which holds
only reward.json when rewards are rules.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from pipeline import stage
from vrpo.config import Params, UserError

PREPARED, SFT, REWARD = Path("data/prepared"), Path("data/models/sft"), Path("data/models/reward")
SAMPLES = 4  # responses per problem, from which one right and one wrong are taken
HELD_OUT = 0.2  # share of pairs kept for measurement
FEWEST_PAIRS = 10


def run(params: Params, record: Any) -> dict[str, Any]:
    """Train the reward model; returns its held-out pairwise accuracy against clean and noisy preferences."""
    if params.reward.kind == "rule":
        print("reward: params ask for rule-based rewards, there is no reward model to train")
        shutil.rmtree(REWARD, ignore_errors=True)
        stage.write_json(REWARD / "reward.json", {"kind": "rule"})
        return {"kind": "rule"}
    from vrpo.models import save_model
    from vrpo.rewards.model import RewardModelScorer, new_reward_model, noisy_preferences
    from vrpo.supervised import fit_preferences

    reward, runtime = params.reward, params.runtime
    clean = _clean_pairs(params)
    held_out = int(HELD_OUT * len(clean))
    noisy = noisy_preferences(clean, reward.label_error, reward.length_bias, reward.seed)
    model, tokenizer = new_reward_model(
        SFT, seed=reward.seed, dtype=runtime.dtype, device=runtime.device, trust_remote_code=runtime.trust_remote_code
    )
    options = {"steps": reward.steps, "batch_size": reward.batch_size, "learning_rate": reward.learning_rate, "seed": reward.seed}
    losses = fit_preferences(model, tokenizer, noisy[held_out:], **options, stage="reward")
    for step, loss in enumerate(losses, 1):
        record.metrics({"loss": loss}, step)
    save_model(model, tokenizer, REWARD)
    scorer = RewardModelScorer(REWARD, runtime.device)
    tail = losses[-5:]
    metrics = {
        "kind": "model",
        "pairs": len(clean) - held_out,
        "pairs_held_out": held_out,
        "noisy_share": sum(a != b for a, b in zip(clean, noisy, strict=True)) / len(clean),
        "accuracy_clean": _pairwise_accuracy(scorer, clean[:held_out]),
        "accuracy_noisy": _pairwise_accuracy(scorer, noisy[:held_out]),
        "loss_first": losses[0],
        "loss_last": sum(tail) / len(tail),
    }
    record.model(REWARD, "reward", metrics)
    return metrics


def _clean_pairs(params: Params) -> list[dict[str, Any]]:
    """One pair per problem to which the cold start gave a right and a wrong answer: pairs to train on, and the held-out ones.

    Raises:
        UserError: hardly any problem has both.
    """
    from vrpo.evaluation import sample_texts, task_replies
    from vrpo.models import load_policy
    from vrpo.rewards.model import completions
    from vrpo.tasks.loader import load_task

    model, tokenizer = load_policy(SFT, params.runtime)
    task = load_task(params, tokenizer)
    rows = stage.read_jsonl(PREPARED / "train.jsonl")
    wanted = round(params.reward.pairs / (1 - HELD_OUT))
    rows = random.Random(f"reward-{params.reward.seed}").sample(rows, min(len(rows), 2 * wanted))
    prompts = [task.prompt(row["question"]) for row in rows]
    options = {"seed": ("reward", params.reward.seed), "reply": task_replies(task, rows), "progress": "reward samples"}
    texts, _ = sample_texts(model, tokenizer, prompts, SAMPLES, params.generation, **options)
    pairs = []
    for row, prompt, group in zip(rows, prompts, texts, strict=True):
        scores = task.verify(group, [row["answer"]] * SAMPLES)
        if 1.0 in scores and 0.0 in scores:
            sides = [group[scores.index(1.0)], group[scores.index(0.0)]]
            chosen, rejected = completions(task, sides, [row["answer"]] * 2)
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    if len(pairs) < FEWEST_PAIRS:
        raise UserError(
            f"reward.kind = 'model': only {len(pairs)} of {len(rows)} problems have both a right and a wrong sample; "
            "raise reward.pairs to sample more problems, or train the cold start longer"
        )
    if len(pairs) < wanted:
        print(f"reward: {len(pairs)} pairs found, {wanted} wanted (reward.pairs = {params.reward.pairs} and the held-out ones)")
    return pairs[:wanted]


def _pairwise_accuracy(scorer: Any, pairs: list[dict[str, Any]]) -> float:
    """Share of pairs whose chosen response scores higher."""
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (scorer(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    return sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)


if __name__ == "__main__":
    stage.main("reward", run, __doc__)
