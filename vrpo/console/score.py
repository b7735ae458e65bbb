"""Sample a model's responses to the prompts of a file and score them with a reward.

FILE has one row a line in JSON: `prompt`, a text or a list of messages, and any further columns, which the reward gets by name. The reward
is a function of yours, f(prompts, responses, **columns) or f(completions, **columns), that returns one number for each response, or None
where it cannot tell. Printed are the mean score with its 95 % interval over prompts and the share of responses without a score.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vrpo.console.arguments import input_file, output_file
from vrpo.console.sampling import A_MODEL, add_runtime, add_sampling, generation_of, load_model, model_source, runtime_of
from vrpo.files import read_jsonl, write_jsonl
from vrpo.own_code import load, naming


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="MODEL", type=model_source, required=True, help=A_MODEL)
    parser.add_argument("--data", metavar="FILE", type=input_file, required=True, help="a .jsonl file of prompts")
    parser.add_argument("--reward", metavar="FILE.py:NAME", required=True, help="the reward, a function in a file of yours")
    parser.add_argument("--output", metavar="FILE", type=output_file, help="write each response and its score here, as .jsonl")
    add_sampling(parser)
    add_runtime(parser)


def run(arguments: argparse.Namespace) -> None:
    """Score and print; the reward and the data are there before the model is loaded."""
    with naming("--reward", arguments.reward):
        reward = load(arguments.reward, Path())
    given = read_jsonl(arguments.data)
    policy, tokenizer = load_model(arguments.model, runtime_of(arguments))
    from vrpo.data.prompts import prompt_rows
    from vrpo.rewards.calling import check_reward, require_scores
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import sample_texts

    rows, samples = prompt_rows(given, tokenizer, str(arguments.data)), arguments.samples
    with naming("--reward", arguments.reward):
        check_reward(reward, [name for name in rows[0] if name != "prompt"])
    sampler, start = new_sampler(policy, tokenizer, generation_of(arguments)), time.perf_counter()
    progress = "sample" if sys.stderr.isatty() else None
    prompts, seed = [row["prompt"] for row in rows], ("score", arguments.seed)
    texts, rollouts = sample_texts(sampler, prompts, samples, seed=seed, progress=progress)
    scored = _scored(reward, rows, texts, arguments.batch_size)
    if arguments.output:
        write_jsonl(arguments.output, scored)
    scores = [row["score"] for row in scored]
    require_scores(scores, "responses")
    length = sum(int(rollout.lengths.sum()) for rollout in rollouts) / len(scores)
    print(f"{in_words(scores, samples)}; {length:.1f} tokens a response; {time.perf_counter() - start:.0f} s")


def _scored(reward: Callable[..., Any], rows: list[dict[str, Any]], texts: list[list[str]], batch_size: int) -> list[dict[str, Any]]:
    """A row for each response: its prompt's columns, `sample` (its index among those to the prompt), `response` and `score`."""
    from vrpo.rewards.calling import call_reward, totals

    asked = [(row, place, text) for row, group in zip(rows, texts, strict=True) for place, text in enumerate(group)]
    scored = []
    for start in range(0, len(asked), batch_size):
        part = asked[start : start + batch_size]
        of, places, responses = map(list, zip(*part, strict=True))
        scores = totals(call_reward(reward, of, responses, 0, places))
        scored += [
            row | {"sample": place, "response": text, "score": score} for (row, place, text), score in zip(part, scores, strict=True)
        ]
    return scored


def in_words(scores: Sequence[float | None], samples: int) -> str:
    """Mean of known scores over prompts with its interval, `samples` of each prompt together; share of the unknown."""
    groups = [scores[start : start + samples] for start in range(0, len(scores), samples)]
    found = _mean(groups)
    interval = ", no interval of one prompt," if found["ci95"] is None else " [{:.4g}, {:.4g}]".format(*found["ci95"])
    left_out = sum(score is None for score in scores) / len(scores)
    return f"mean {found['mean']:.4g}{interval} over {found['n']} prompts x {samples}; {left_out:.1%} unscored"


def _mean(groups: list[Sequence[float | None]]) -> dict[str, Any]:
    """Scores from 0 to 1 have the interval of an accuracy, which is not certain where all are right; others Student's t."""
    from vrpo.metrics.statistics import interval
    from vrpo.rollout.samples import accuracy

    known = [[score for score in group if score is not None] for group in groups]
    known = [group for group in known if group]
    if all(0 <= score <= 1 for group in known for score in group):
        found = accuracy(known)
        return {"mean": found.mean, "ci95": found.ci95, "n": found.problems}
    return interval([sum(group) / len(group) for group in known], 0.95)
