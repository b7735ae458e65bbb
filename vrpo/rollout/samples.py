"""Sampling from a policy and scoring it on problems, with intervals that respect that samples of one problem are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from vrpo.data.batch import Rollout
from vrpo.data.text import decode, encode
from vrpo.errors import UserError
from vrpo.models.limits import check_prompts
from vrpo.rollout.conversation import Reply, converse, replies
from vrpo.rollout.sampler import Sampler
from vrpo.seeding import derive_seed

SEEDED = 512  # rows whose samples one seed fixes


def sample_texts(
    sampler: Sampler,
    prompts: Sequence[str],
    samples: int,
    *,
    seed: tuple[object, ...],
    reply: Reply | None = None,
    progress: str | None = None,
) -> tuple[list[list[str]], list[Rollout]]:
    """`samples` responses to each prompt, dialogues where `reply` answers them (its first argument counts the prompts).

    Each run of `SEEDED` rows has a seed of its own, so that the samples do not depend on `generation.batch_size`; no more rows than that
    are decoded together.

    Returns:
        texts, one list of `samples` per prompt, and the rollouts they come from: chunks of rows in the same order, samples
        of one prompt together.

    Raises:
        UserError: a prompt is nothing that the model can answer (see `check_prompts`).
    """
    from tqdm import tqdm

    encoded = encode(sampler.tokenizer, prompts)
    check_prompts(sampler.model, sampler.tokenizer, encoded, sampler.generation.max_new_tokens)
    repeated = [ids for ids in encoded for _ in range(samples)]
    texts: list[str] = []
    rollouts = []
    with tqdm(total=len(repeated), desc=progress, unit="response", disable=progress is None) as bar:
        bounds = sorted({*range(0, len(repeated), SEEDED), *range(0, len(repeated), sampler.generation.batch_size)})
        for start, stop in pairwise([*bounds, len(repeated)]):
            first = start - start % SEEDED
            options = {"seed": derive_seed(*seed, first), "places": range(start - first, stop - first)}
            answer = None if reply is None else partial(_reply_to_sample, reply, start, samples)
            rollouts.append(converse(sampler, repeated[start:stop], answer, **options))
            texts += decode(sampler.tokenizer, rollouts[-1])
            bar.update(stop - start)
    return [texts[i : i + samples] for i in range(0, len(texts), samples)], rollouts


def _reply_to_sample(reply: Reply, start: int, samples: int, row: int, turns: list[str]) -> str | None:
    return reply((start + row) // samples, turns)


def task_replies(task: Any, rows: Sequence[dict[str, Any]]) -> Reply | None:
    """The environment of a task's rows; None for tasks of one turn."""
    return replies(task.environment, rows)


@dataclass(frozen=True)
class PolicySamples:
    """Responses of one policy to problems, drawn once and looked at from several sides.

    Attributes:
        rows: the problems.
        texts: one list of responses per problem.
        rollouts: the same responses as tokens, in order (see `sample_texts`).
        clean: score of each response against the clean answer, flat.
        details: what the task itself has to say about the responses, by name (dialogues: the metrics of `vrpo.tasks.dialogue`).
    """

    rows: list[dict[str, Any]]
    texts: list[list[str]]
    rollouts: list[Rollout]
    clean: list[float | None]
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, sampler: Sampler, task: Any, rows: list[dict[str, Any]], samples: int, seed: int) -> PolicySamples:
        prompts = [task.prompt(row["question"]) for row in rows]
        settings = {"seed": ("evaluate", seed), "reply": task_replies(task, rows), "progress": "evaluate"}
        texts, rollouts = sample_texts(sampler, prompts, samples, **settings)
        answers = [row["answer"] for row in rows]
        return cls(rows, texts, rollouts, verify_samples(task, texts, answers), task.details(texts, answers))

    def summary(self) -> dict[str, Any]:
        """Accuracy with its interval, by difficulty too where rows have a `length`, and mean response length in tokens."""
        count = len(self.texts[0])
        groups = [self.clean[i : i + count] for i in range(0, len(self.clean), count)]
        overall = accuracy(groups)
        by_length = {}
        for length in sorted({row["length"] for row in self.rows if "length" in row}):
            by_length[str(length)] = accuracy(
                [group for group, row in zip(groups, self.rows, strict=True) if row.get("length") == length]
            ).mean
        lengths = [int(length) for rollout in self.rollouts for length in rollout.lengths]
        return {
            "accuracy": {"mean": overall.mean, "ci95": list(overall.ci95), "n": overall.problems, "samples": count},
            "accuracy_by_length": by_length,
            "response_length": sum(lengths) / len(lengths),
        } | self.details


def verify_samples(task: Any, texts: list[list[str]], answers: Sequence[str]) -> list[float | None]:
    """Scores of all responses, flat, against one reference per problem."""
    flat = [text for group in texts for text in group]
    return task.verify(flat, [answer for answer, group in zip(answers, texts, strict=True) for _ in group])


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over problems.

    Attributes:
        mean: share of right responses.
        ci95: interval of the mean from the spread over problems (Student's t), cut to [0, 1]; where all are right or all wrong, the exact
            binomial one.
        problems: number of problems that could be scored.
    """

    mean: float
    ci95: tuple[float, float]
    problems: int


def accuracy(scores: Sequence[Sequence[float | None]]) -> Accuracy:
    """Mean score over problems, each the mean of its samples; unscored samples (None) are left out.

    Args:
        scores: one list of sample scores per problem.

    Raises:
        UserError: nothing could be scored.
    """
    from scipy import stats

    per_problem = [sum(known) / len(known) for group in scores if (known := [s for s in group if s is not None])]
    if not per_problem:
        raise UserError("no response could be scored; check that the verifier can read the reference answers")
    values = torch.tensor(per_problem, dtype=torch.float64)
    mean = float(values.mean())
    if len(per_problem) < 2:
        return Accuracy(mean, (0.0, 1.0), len(per_problem))
    if mean in (0.0, 1.0):  # no spread to go by, but not certain either
        interval = stats.binomtest(int(mean) * len(per_problem), len(per_problem)).proportion_ci()
        return Accuracy(mean, (float(interval.low), float(interval.high)), len(per_problem))
    half = float(stats.t.ppf(0.975, len(per_problem) - 1) * values.std() / len(per_problem) ** 0.5)
    return Accuracy(mean, (max(0.0, mean - half), min(1.0, mean + half)), len(per_problem))
