"""What a policy's responses to a benchmark are worth: avg@k, maj@k, pass@k with intervals over problems, format, length, time."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vrpo.benchmarks.questions import BENCHMARKS
from vrpo.errors import UserError
from vrpo.files import write_json, write_jsonl
from vrpo.tasks.loader import load_domain
from vrpo.tasks.rows import Row


def check_readable(tokenizer: Any, model: str, questions: Mapping[str, list[Row]]) -> None:
    """`check_tokenizer` for all benchmarks, before the first is sampled."""
    for name, rows in questions.items():
        task = load_domain(BENCHMARKS[name].domain).on_rows(tokenizer)
        check_tokenizer(tokenizer, [task.prompt(row["question"]) for row in rows], model, name)


def check_tokenizer(tokenizer: Any, prompts: list[str], model: str, name: str) -> None:
    """Refuse a tokenizer that loses most of a benchmark's text: what such a model scores says nothing about it.

    Raises:
        UserError: more than half of the prompts' letters become unknown or padding tokens, or none at all.
    """
    lost = {tokenizer.unk_token_id, tokenizer.pad_token_id}
    letters = kept = 0
    for prompt in prompts:
        known = [token for token in tokenizer(prompt, add_special_tokens=False)["input_ids"] if token not in lost]
        letters += len("".join(prompt.split()))
        kept += len("".join(tokenizer.decode(known).split()))
    if kept < letters / 2:
        raise UserError(
            f"{model}: its tokenizer ({len(tokenizer)} tokens) loses {1 - kept / letters:.0%} of the prompts of {name}, so that a score would "
            "say nothing; use a model whose tokenizer reads text, or a benchmark in this one's symbols"
        )


def measure(sampler: Any, model: str, name: str, rows: list[Row], samples: int, seed: int, output: Path) -> dict[str, Any]:
    """Sample and score one benchmark.

    Args:
        sampler: a `vrpo.rollout.sampler.Sampler` on the policy.
        model: what the policy is called in results.
        rows: the benchmark's questions that are asked.
        samples: responses to each.
        output: gets `<model>/<name>.json`, and the responses in `<model>/<name>.responses.jsonl`.

    Returns:
        The contents of the results file.
    """
    from vrpo.rollout.samples import PolicySamples

    task, start = load_domain(BENCHMARKS[name].domain).on_rows(sampler.tokenizer), time.perf_counter()
    drawn = PolicySamples.draw(sampler, task, rows, samples, seed)
    seconds = time.perf_counter() - start
    lengths = [int(length) for rollout in drawn.rollouts for length in rollout.lengths]
    result = {
        "benchmark": name,
        "model": model,
        "domain": BENCHMARKS[name].domain,
        "source": asdict(BENCHMARKS[name]),
        "problems": len(rows),
        "samples": samples,
        "generation": sampler.generation.model_dump(),
        "seed": seed,
        **scores(task, drawn),
        "unscored": dict(getattr(task, "unscored", {})),
        "truncated": cut_off(sampler, drawn.rollouts) / len(lengths),
        "response_length": sum(lengths) / len(lengths),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(sum(lengths) / seconds, 1),
    }
    folder = output / file_name(model)
    write_json(folder / f"{name}.json", result)
    responses = [{"id": row["id"], "answer": row["answer"], "responses": texts} for row, texts in zip(rows, drawn.texts, strict=True)]
    write_jsonl(folder / f"{name}.responses.jsonl", responses)
    return result


def scores(task: Any, drawn: Any) -> dict[str, Any]:
    """What responses are worth: accuracies with intervals, format, length. `drawn`: `vrpo.rollout.samples.PolicySamples`.

    Problems none of whose samples could be scored count in `unscored_problems` alone; of the others, pass@k is taken over the scored samples.
    """
    from vrpo.metrics.statistics import pass_at
    from vrpo.rewards.labels import majority_vote
    from vrpo.rollout.samples import accuracy

    count = len(drawn.texts[0])
    groups = [drawn.clean[i : i + count] for i in range(0, len(drawn.clean), count)]
    known = [[score for score in group if score is not None] for group in groups]
    if not any(known):
        raise UserError("no response could be scored: not one reference answer can be read; correct the data")
    answers = [[task.extract(text, row.get("choices", ())) for text in group] for row, group in zip(drawn.rows, drawn.texts, strict=True)]
    votes = [majority_vote(group)[0] for group in answers]
    stated = ["" if vote is None else task.canonical_response(vote) for vote in votes]
    majority = task.verify(stated, [row["answer"] for row in drawn.rows])
    ks = [2**power for power in range(count.bit_length()) if 2**power < count] + [count]

    def measured(values: list[list[float | None]]) -> dict[str, Any]:
        found = accuracy(values)
        return {"mean": found.mean, "ci95": list(found.ci95), "n": found.problems}

    enough = {k: [[pass_at(k, int(sum(group)), len(group))] for group in known if len(group) >= k] for k in ks}
    return {
        f"avg@{count}": measured(groups),
        f"maj@{count}": measured([[score] for score in majority]),
        **{f"pass@{k}": measured(values) for k, values in enough.items() if values},
        "format": sum(answer is not None for group in answers for answer in group) / sum(map(len, answers)),
        "unscored_responses": sum(score is None for score in drawn.clean),
        "unscored_problems": sum(not group for group in known),
    }


def cut_off(sampler: Any, rollouts: list[Any]) -> int:
    """How many responses do not end in one of the tokens that end one: they were cut at the longest length."""
    return sum(
        int(ids[mask][-1]) not in sampler.ends
        for rollout in rollouts
        for ids, mask in zip(rollout.responses, rollout.response_mask, strict=True)
    )


def file_name(model: str) -> str:
    """A model's folder or hub id as the name of one folder."""
    return re.sub(r"[^\w.-]+", "_", model).strip("_")


def in_words(result: Mapping[str, Any]) -> str:
    """A result of `measure` in one line."""
    shares = [f"{key} {value['mean']:.3f} {[round(bound, 3) for bound in value['ci95']]}" for key, value in result.items() if "@" in key]
    rest = f"format {result['format']:.2f}, truncated {result['truncated']:.2f}, {result['seconds']:.0f} s"
    return f"{result['benchmark']}: {', '.join(shares)}; {rest}"
