"""Held-out evaluation of one trained cell on clean answers, and of its critic.

Writes data/evaluations/<method>-<seed>.json: accuracy with an interval over problems, response length, the gap between the
observed reward (labels or learned, with flips, heavy tails and correction, as training saw it) and the clean one, and for methods with
a critic its explained variance and its correlation with Monte-Carlo values.
A few responses, token by token, go to data/tokens/<method>-<seed>.json.
"""

from __future__ import annotations

import math
from typing import Any

from pipeline import files
from pipeline.params import Params
from pipeline.stages import stage
from pipeline.workspace import HERE, Workspace

Rates = dict[str, Any] | None  # what rewards were corrected for


def run(params: Params, method: str, seed: int, record: Any, workspace: Workspace = HERE) -> dict[str, Any]:
    """Evaluate `data/runs/<method>-<seed>`; returns the headline numbers."""
    import torch

    from pipeline.domains import load_task
    from pipeline.stages.observed import acting_noise
    from vrpo.critics.value_model import ValueModel
    from vrpo.models.loading import load_policy
    from vrpo.rewards.calling import totals
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import PolicySamples
    from vrpo.timing import Timer

    torch.set_num_threads(params.runtime.threads)
    folder, timer = workspace.runs / f"{method}-{seed}", Timer()
    trained = files.read_json(folder / "run.json")
    initial = files.read_json(workspace.cold_start)
    rows = files.read_jsonl(workspace.prepared / "test.jsonl")[: params.evaluate.max_problems]
    policy, tokenizer = load_policy(folder / "policy", params.runtime)
    task = load_task(params, tokenizer)
    sampler = new_sampler(policy, tokenizer, params.generation)
    with timer("evaluate"):
        drawn = PolicySamples.draw(sampler, task, rows, params.evaluate.samples, params.evaluate.seed)
        observed, clean = _rewards(params, task, drawn, seed, trained["flip_rates"], workspace)
        both = [(o, c) for o, c in zip(totals(observed), totals(clean), strict=True) if o is not None and c is not None]
        result = drawn.summary() | {"proxy_gap": sum(o - c for o, c in both) / len(both) if both else None}
    critic = model = None
    if (folder / "value_model").is_dir():
        with timer("critic"):
            model = ValueModel.from_pretrained(folder / "value_model", params.runtime.device)
            critic = _fit(params, model, drawn, observed, clean, workspace)
            critic["corr_mc"] = _monte_carlo(params, sampler, model, task, rows, seed)
            critic = {key: value if math.isfinite(value) else None for key, value in critic.items()}
            critic |= {key: trained["critic"][key] for key in ("corr_mc_start", "corr_mc_end")}
    evaluation = {
        "method": method,
        "seed": seed,
        "domain": params.domain,
        "noise": acting_noise(params, files.read_json(workspace.labels / "noise.json")),
        **result,
        "accuracy_init": initial["accuracy"]["mean"],
        "length_inflation": result["response_length"] / max(initial["response_length"], 1e-9),
        "critic": critic,
        **{key: trained[key] for key in ("iterations", "rollouts", "rollouts_warmup", "policy_updates", "health")},
    }
    files.write_json(workspace.evaluations / f"{method}-{seed}.json", evaluation)
    tokens = _tokens(params, policy, model, tokenizer, drawn, observed, clean, trained, workspace)
    files.write_json(workspace.tokens / f"{method}-{seed}.json", tokens)
    record.dataset(workspace.prepared / "test.jsonl", "test")
    headline = {"accuracy": result["accuracy"]["mean"], "response_length": result["response_length"], "proxy_gap": result["proxy_gap"]}
    return headline | {f"critic/{key}": value for key, value in (critic or {}).items() if value is not None} | stage.phases(timer)


def _rewards(params: Params, task: Any, drawn: Any, seed: int, rates: Rates, workspace: Workspace) -> tuple[list[Any], list[Any]]:
    """What training with this seed would have seen of the responses, and the same reward clean; None where test problems have no label, as
    all where labels come with the training data.

    The noise is drawn as in training, with a key of its own in place of the iteration.
    """
    from pipeline.stages.observed import EVALUATED, clean_reward, observed_reward
    from vrpo.rewards.calling import call_reward
    from vrpo.rewards.corrections import CorrectedReward, FlipRates
    from vrpo.rewards.experience import repeats

    labels = {}
    if params.label.source != "dataset":
        labels = {row["id"]: row["label"] for row in files.read_jsonl(workspace.labels / "test.jsonl")}
    rows = [
        {"prompt": task.prompt(row["question"]), "id": row["id"], "answer": row["answer"], "label": labels.get(row["id"], "")}
        for row, texts in zip(drawn.rows, drawn.texts, strict=True)
        for _ in texts
    ]
    reward = observed_reward(params, task, seed, workspace)
    if rates:
        reward = CorrectedReward(reward, params.reward.correction, FlipRates(**rates))
    texts = [text for group in drawn.texts for text in group]
    observed = call_reward(reward, rows, texts, EVALUATED, repeats(rows), params.train.reward_timeout)
    return observed, clean_reward(params, task)(
        [], texts, answer=[row["answer"] for row in rows]
    ) if params.reward.per_turn else drawn.clean


def _fit(params: Params, critic: Any, drawn: Any, observed: list[Any], clean: list[Any], workspace: Workspace) -> dict[str, float]:
    """Explained variance of the critic on the evaluation's samples, against observed and against clean returns (see `_penalty`)."""
    import torch

    from vrpo.algorithms.advantages import returns_to_go
    from vrpo.data.batch import Rollout
    from vrpo.metrics.critic import explained_variance
    from vrpo.rewards.experience import token_rewards

    rollout = Rollout.concatenate(drawn.rollouts)
    values, penalty, metrics = critic.read(rollout, params.train.micro_batch_size), _penalty(params, rollout, workspace), {}
    for name, scores in (("observed", observed), ("clean", clean)):
        known = torch.tensor([score is not None for score in scores])[:, None] & rollout.response_mask
        returns = returns_to_go(token_rewards(scores, rollout.response_mask) - penalty, rollout.response_mask, params.train.gamma)
        metrics[f"ev_{name}"] = explained_variance(values, returns, known)
    return metrics


def _penalty(params: Params, rollout: Any, workspace: Workspace) -> Any:
    """What training takes off the reward of each token, [B, T] or 0: with `train.kl_in: reward` the divergence from the cold start."""
    from vrpo.algorithms.losses import kl_k1
    from vrpo.models.forward import read_logprobs
    from vrpo.models.loading import load_policy

    if not params.train.kl_coefficient or params.train.kl_in != "reward":
        return 0.0
    reference, _ = load_policy(workspace.sft, params.runtime)
    reference_logprobs = read_logprobs(reference, rollout, params.generation.temperature, params.train.micro_batch_size)
    return params.train.kl_coefficient * kl_k1(rollout.logprobs, reference_logprobs) * rollout.response_mask


def _tokens(
    params: Params, policy: Any, critic: Any, tokenizer: Any, drawn: Any, observed: list, clean: list, trained: dict, workspace: Workspace
) -> list[dict[str, Any]]:
    """A few of the evaluation's responses, token by token."""
    import torch

    from pipeline.stages.token_values import choose, read_tokens
    from vrpo.algorithms.advantages import length_adaptive_lambda
    from vrpo.data.batch import Rollout
    from vrpo.rewards.calling import totals
    from vrpo.rewards.corrections import CORRECTIONS, FlipRates

    middle = 0.5  # rewards above it are rewarded
    if rates := trained["flip_rates"]:
        (middle,) = CORRECTIONS[params.reward.correction]([middle], FlipRates(**rates))
    places = choose(totals(observed), totals(clean), middle)
    if not places:
        return []
    rollout = Rollout.concatenate(drawn.rollouts)[torch.tensor(places)].trim()
    scores = ([scores[place] for place in places] for scores in (observed, clean))
    train = params.train
    alpha = train.length_adaptive_alpha
    settings = {
        "temperature": params.generation.temperature,
        "gamma": train.gamma,
        "lam": train.gae_lambda if alpha is None else length_adaptive_lambda(rollout.response_mask, alpha),
        "middle": middle,
        "penalty": 0.0 if critic is None else _penalty(params, rollout, workspace),
        "gain": trained.get("gain"),
    }
    return read_tokens(policy, critic, tokenizer, rollout, *scores, **settings)


def _monte_carlo(params: Params, sampler: Any, critic: Any, task: Any, rows: list[dict[str, Any]], seed: int) -> float:
    """Correlation of the critic's values with Monte-Carlo values of the clean return, on test problems."""
    from pipeline.stages.observed import clean_reward
    from vrpo.data.text import encode
    from vrpo.metrics.monte_carlo import monte_carlo_check
    from vrpo.rollout.samples import task_replies
    from vrpo.seeding import derive_seed

    samples, rows = params.train.monte_carlo_samples, rows[: params.train.monte_carlo_prefixes]
    if not rows:
        return math.nan
    reward, answers = clean_reward(params, task), [row["answer"] for row in rows for _ in range(samples)]
    check = monte_carlo_check(
        sampler,
        critic,
        encode(sampler.tokenizer, [task.prompt(row["question"]) for row in rows]),
        lambda texts: reward([], texts, answer=answers),
        samples=samples,
        seed=derive_seed("evaluate", params.evaluate.seed, seed),
        reply=task_replies(task, rows),
        gamma=params.train.gamma,
    )
    return check.correlation


if __name__ == "__main__":
    stage.main("evaluate", run, __doc__, cell=True)
