"""Reward model, where params.reward.kind asks for one: trained on noisy preference pairs, checked on held-out clean ones.

A pair is a right and a wrong response of the cold start to one training problem. With `reward.accuracy` the reward is blurred until it
prefers the right response of held-out pairs as often as that. Writes data/models/reward, which holds only reward.json when rewards are rules or functions.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from typing import Any

from pipeline import files
from pipeline.params import Params
from pipeline.stages import stage
from pipeline.workspace import HERE, Workspace
from vrpo.errors import UserError

SAMPLES = 4  # responses per problem, from which one right and one wrong are taken
HELD_OUT = 0.2  # share of pairs kept for measurement
FEWEST_PAIRS = 10


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Train the reward model; returns its held-out pairwise accuracy against clean and noisy preferences."""
    if params.reward.kind in ("rule", "function"):
        print(f"reward: of kind {params.reward.kind}, there is no reward model to train")
        shutil.rmtree(workspace.reward, ignore_errors=True)
        files.write_json(workspace.reward / "reward.json", {"kind": params.reward.kind})
        return {"kind": params.reward.kind}
    from vrpo.rewards.model import BlurredReward, find_blur, noisy_preferences, pairwise_accuracy

    reward = params.reward
    clean = _clean_pairs(params, workspace)
    held_out = int(HELD_OUT * len(clean))
    noisy = noisy_preferences(clean, reward.label_error, reward.length_bias, reward.seed)
    losses = _fit(params, noisy[held_out:], workspace)
    for step, loss in enumerate(losses, 1):
        record.metrics({"loss": loss}, step)
    scorer = _load_unblurred(params, workspace)
    blur = 0.0
    half = held_out // 2  # blurred on one half, measured on the other
    if reward.accuracy:
        blur = find_blur(scorer, clean[:half], reward.accuracy, reward.seed)
    files.write_json(workspace.reward / "reward.json", {"kind": reward.kind, "blur": blur})
    measured = slice(half, held_out) if reward.accuracy else slice(held_out)
    blurred, tail = BlurredReward(scorer, blur, reward.seed), losses[-5:]
    metrics = {
        "kind": reward.kind,
        "pairs": len(clean) - held_out,
        "pairs_held_out": held_out,
        "noisy_share": sum(a != b for a, b in zip(clean, noisy, strict=True)) / len(clean),
        "blur": blur,
        "accuracy_clean": pairwise_accuracy(blurred, clean[measured]),
        "accuracy_noisy": pairwise_accuracy(blurred, noisy[measured]),
        "accuracy_unblurred": pairwise_accuracy(scorer, clean[:held_out]),
        "loss_first": losses[0],
        "loss_last": sum(tail) / len(tail),
    }
    record.model(workspace.reward, "reward", metrics)
    return metrics


def _fit(params: Params, pairs: list[dict[str, Any]], workspace: Workspace) -> list[float]:
    """Train the model that `reward.kind` asks for on noisy preferences and save it; returns the loss of every step."""
    from vrpo.models.loading import load_policy, save_model
    from vrpo.models.supervised import fit_implicit_reward, fit_preferences
    from vrpo.rewards.model import new_reward_model

    reward, runtime = params.reward, params.runtime.training
    options = {"steps": reward.steps, "batch_size": reward.batch_size, "learning_rate": reward.learning_rate, "seed": reward.seed}
    if reward.kind == "implicit":
        model, tokenizer = load_policy(workspace.sft, runtime)
        losses = fit_implicit_reward(model, tokenizer, pairs, beta=reward.beta, **options, stage="reward")
    else:
        places = {"dtype": runtime.dtype, "device": runtime.device, "trust_remote_code": runtime.trust_remote_code}
        model, tokenizer = new_reward_model(workspace.sft, seed=reward.seed, **places)
        losses = fit_preferences(model, tokenizer, pairs, **options, stage="reward")
    save_model(model, tokenizer, workspace.reward)
    return losses


def learned_reward(params: Params, task: Any, workspace: Workspace) -> Callable[..., list[float]]:
    """The reward in `workspace`, between 0 and 1, as `vrpo.training.trainer.Trainer` calls it; it reads dialogues whole."""
    scorer = load_scorer(params, workspace)

    def reward(prompts: list[str], responses: list[str], *, answer: list[str], **_: Any) -> list[float]:
        scores = scorer(prompts, list(map(task.completion, responses, answer)))
        return [1 / (1 + math.exp(min(-score, 700.0))) for score in scores]

    return reward


def load_scorer(params: Params, workspace: Workspace) -> Any:
    """The learned reward in `workspace`, blurred as its reward.json says."""
    from vrpo.rewards.model import BlurredReward

    blur = files.read_json(workspace.reward / "reward.json")["blur"]
    return BlurredReward(_load_unblurred(params, workspace), blur, params.reward.seed)


def _load_unblurred(params: Params, workspace: Workspace) -> Any:
    from vrpo.models.loading import load_policy
    from vrpo.rewards.implicit import ImplicitReward
    from vrpo.rewards.model import RewardModelScorer

    if params.reward.kind == "model":
        return RewardModelScorer(workspace.reward, params.runtime.device)
    (policy, tokenizer), (reference, _) = (load_policy(folder, params.runtime) for folder in (workspace.reward, workspace.sft))
    return ImplicitReward(policy, reference, tokenizer, params.reward.beta)


def _clean_pairs(params: Params, workspace: Workspace) -> list[dict[str, Any]]:
    """One pair per problem to which the cold start gave a right and a wrong answer: pairs to train on, and the held-out ones.

    Raises:
        UserError: hardly any problem has both.
    """
    from pipeline.domains import load_task
    from vrpo.models.loading import load_policy
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import sample_texts, task_replies

    model, tokenizer = load_policy(workspace.sft, params.runtime)
    task = load_task(params, tokenizer)
    rows = files.read_jsonl(workspace.prepared / "train.jsonl")
    wanted = round(params.reward.pairs / (1 - HELD_OUT))
    rows = random.Random(f"reward-{params.reward.seed}").sample(rows, min(len(rows), 2 * wanted))
    prompts = [task.prompt(row["question"]) for row in rows]
    options = {"seed": ("reward", params.reward.seed), "reply": task_replies(task, rows), "progress": "reward samples"}
    texts, _ = sample_texts(new_sampler(model, tokenizer, params.generation), prompts, SAMPLES, **options)
    pairs = []
    for row, prompt, group in zip(rows, prompts, texts, strict=True):
        scores = task.verify(group, [row["answer"]] * SAMPLES)
        if 1.0 in scores and 0.0 in scores:
            chosen, rejected = (task.completion(group[scores.index(side)], row["answer"]) for side in (1.0, 0.0))
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    if len(pairs) < FEWEST_PAIRS:
        raise UserError(
            f"reward.kind = {params.reward.kind!r}: only {len(pairs)} of {len(rows)} problems have both a right and a wrong sample; "
            "raise reward.pairs to sample more problems, or train the cold start longer"
        )
    if len(pairs) < wanted:
        print(f"reward: {len(pairs)} pairs found, {wanted} wanted (reward.pairs = {params.reward.pairs} and the held-out ones)")
    return pairs[:wanted]


if __name__ == "__main__":
    stage.main("reward", run, __doc__)
