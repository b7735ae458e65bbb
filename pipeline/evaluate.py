"""Held-out evaluation of one trained cell on clean answers, and of its critic.

Writes data/evaluations/<method>-<seed>.json: accuracy with an interval over problems, response length, the gap between the
observed and the clean reward, and for methods with a critic its explained variance and its correlation with Monte-Carlo values.
A few responses, token by token, go to data/tokens/<method>-<seed>.json.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline import stage
from vrpo.config import Params

PREPARED, LABELS, RUNS, EVALUATIONS = Path("data/prepared"), Path("data/labels"), Path("data/runs"), Path("data/evaluations")
TOKENS = Path("data/tokens")


def run(params: Params, method: str, seed: int, record: Any) -> dict[str, Any]:
    """Evaluate `data/runs/<method>-<seed>`; returns the headline numbers."""
    import torch

    from vrpo.critic import ValueModel
    from vrpo.evaluation import PolicySamples
    from vrpo.models import load_policy
    from vrpo.tasks.loader import load_task
    from vrpo.timing import Timer

    torch.set_num_threads(params.runtime.threads)
    folder, timer = RUNS / f"{method}-{seed}", Timer()
    trained = stage.read_json(folder / "run.json")
    initial = stage.read_json(EVALUATIONS / "sft.json")
    rows = stage.read_jsonl(PREPARED / "test.jsonl")[: params.evaluate.max_problems]
    policy, tokenizer = load_policy(folder / "policy", params.runtime)
    task = load_task(params, tokenizer)
    with timer("evaluate"):
        drawn = PolicySamples.draw(policy, tokenizer, task, rows, params.evaluate.samples, params.generation, params.evaluate.seed)
        observed = _observed(params, task, drawn)
        both = [(o, c) for o, c in zip(observed, drawn.clean, strict=True) if o is not None and c is not None]
        result = drawn.summary() | {"proxy_gap": sum(o - c for o, c in both) / len(both) if both else None}
    critic = model = None
    if (folder / "value_model").is_dir():
        with timer("critic"):
            model = ValueModel.from_pretrained(folder / "value_model", params.runtime.device)
            critic = _fit(model, drawn, observed) | {"corr_mc": _monte_carlo(params, policy, model, tokenizer, task, rows, seed)}
            critic = {key: value if math.isfinite(value) else None for key, value in critic.items()}
            critic |= {key: trained["critic"][key] for key in ("corr_mc_start", "corr_mc_end")}
    evaluation = {
        "method": method,
        "seed": seed,
        "domain": params.domain,
        "noise": stage.read_json(LABELS / "noise.json") | {"reward": params.reward.kind},
        **result,
        "accuracy_init": initial["accuracy"]["mean"],
        "length_inflation": result["response_length"] / max(initial["response_length"], 1e-9),
        "critic": critic,
        **{key: trained[key] for key in ("iterations", "rollouts", "rollouts_warmup", "policy_updates", "peak_memory_mb", "health")},
        "seconds": {**trained["seconds"], **{phase: round(seconds, 2) for phase, seconds in timer.seconds.items()}},
    }
    stage.write_json(EVALUATIONS / f"{method}-{seed}.json", evaluation)
    stage.write_json(TOKENS / f"{method}-{seed}.json", _tokens(params, policy, model, tokenizer, drawn, observed))
    record.dataset(PREPARED / "test.jsonl", "test")
    headline = {"accuracy": result["accuracy"]["mean"], "response_length": result["response_length"], "proxy_gap": result["proxy_gap"]}
    return headline | {f"critic/{key}": value for key, value in (critic or {}).items() if value is not None}


def _observed(params: Params, task: Any, drawn: Any) -> list[float | None]:
    """What training would have seen of the responses, flips and tails aside: the learned reward, or the rule on the noisy labels."""
    from vrpo.evaluation import verify_samples

    if params.reward.kind == "rule":
        labels = {row["id"]: row["label"] for row in stage.read_jsonl(LABELS / "test.jsonl")}
        return verify_samples(task, drawn.texts, [labels.get(row["id"], "") for row in drawn.rows])
    from pipeline.reward import learned_reward

    groups = list(zip(drawn.rows, drawn.texts, strict=True))
    prompts = [prompt for row, texts in groups for prompt in [task.prompt(row["question"])] * len(texts)]
    answers = [row["answer"] for row, texts in groups for _ in texts]
    return learned_reward(params, task)(prompts, [text for _, texts in groups for text in texts], answer=answers)


def _fit(critic: Any, drawn: Any, observed: list[float | None]) -> dict[str, float]:
    """Explained variance of the critic on the evaluation's samples, against observed and against clean returns."""
    import torch

    from vrpo.diagnostics import explained_variance, terminal_returns

    masks = [rollout.response_mask for rollout in drawn.rollouts]
    values = torch.cat([critic.read(rollout)[mask] for rollout, mask in zip(drawn.rollouts, masks, strict=True)])
    metrics = {}
    for name, scores in (("observed", observed), ("clean", drawn.clean)):
        known = torch.tensor([math.nan if score is None else score for score in scores]).split([len(mask) for mask in masks])
        returns = torch.cat([terminal_returns(part, torch.ones_like(mask))[mask] for part, mask in zip(known, masks, strict=True)])
        metrics[f"ev_{name}"] = explained_variance(values, returns, returns.isfinite())
    return metrics


def _tokens(params: Params, policy: Any, critic: Any, tokenizer: Any, drawn: Any, observed: list[float | None]) -> list[dict[str, Any]]:
    """A few of the evaluation's responses, token by token."""
    import torch

    from pipeline.tokens import choose, read_tokens
    from vrpo.types import Rollout

    places = choose(observed, drawn.clean)
    if not places:
        return []
    rollout = Rollout.concatenate(drawn.rollouts)[torch.tensor(places)].trim()
    scores = ([scores[place] for place in places] for scores in (observed, drawn.clean))
    settings = {"temperature": params.generation.temperature, "gamma": params.train.gamma, "lam": params.train.gae_lambda}
    return read_tokens(policy, critic, tokenizer, rollout, *scores, **settings)


def _monte_carlo(params: Params, policy: Any, critic: Any, tokenizer: Any, task: Any, rows: list[dict[str, Any]], seed: int) -> float:
    """Correlation of the critic's values with Monte-Carlo values of the clean return, on test problems."""
    from vrpo.diagnostics import monte_carlo_check
    from vrpo.evaluation import task_replies
    from vrpo.generation import encode, generation_settings
    from vrpo.seeding import derive_seed

    samples, rows = params.train.monte_carlo_samples, rows[: params.train.monte_carlo_prefixes]
    if not rows:
        return math.nan
    answers = [row["answer"] for row in rows for _ in range(samples)]
    check = monte_carlo_check(
        policy,
        critic,
        tokenizer,
        encode(tokenizer, [task.prompt(row["question"]) for row in rows]),
        lambda texts: task.verify(texts, answers),
        samples=samples,
        seed=derive_seed("evaluate", params.evaluate.seed, seed),
        reply=task_replies(task, rows),
        max_turns=params.generation.max_turns,
        **generation_settings(policy, tokenizer, params.generation),
    )
    return check.correlation


if __name__ == "__main__":
    stage.main("evaluate", run, __doc__, cell=True)
