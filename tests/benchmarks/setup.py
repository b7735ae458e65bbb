"""What several benchmarks share: the tiny model, its prompts, alternating measurement, claims."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

LENGTH = 34  # longest response, in tokens; the default profile's
ROLLOUTS = 192  # an iteration
TRL_SETTINGS = {  # of both TRL trainers: on the CPU in float32, nothing saved, logged or shown
    **{"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True},
    **{"report_to": [], "save_strategy": "no", "logging_strategy": "no"},
}


def tiny_model(steps: int = 120) -> tuple[Any, Any]:
    """A Llama of d 96 x 2 layers and its tokenizer, trained for seconds: its responses end by themselves, at 4 to 25 tokens."""
    from vrpo.models.loading import new_llama
    from vrpo.models.supervised import fit_demonstrations
    from vrpo.tasks.math.chain import new_tokenizer, work_through

    tokenizer = new_tokenizer()
    model = new_llama(tokenizer, hidden_size=96, layers=2, heads=2, seed=0)
    rng = random.Random(0)
    pairs = [{"prompt": row["prompt"], "completion": work_through(row["question"], rng, 0.2)} for row in problems(32 * steps)]
    fit_demonstrations(model, tokenizer, pairs, steps=steps, batch_size=32, learning_rate=3e-3, seed=0, stage="benchmark")
    return model.eval(), tokenizer


def problems(count: int) -> list[dict[str, Any]]:
    """Chains of one to eight operations, with their prompts."""
    from vrpo.tasks.math.chain import ChainTask, generate_problems

    task = ChainTask(8)
    return [row | {"prompt": task.prompt(row["question"])} for row in generate_problems(count, 0, 1, 8, set())]


def verify(completions: list[str], answers: list[str]) -> list[float]:
    """The reward that both sides of a comparison ask for."""
    from vrpo.tasks.math.chain import ChainTask

    return ChainTask(8).verify(completions, answers)


def alternate(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each side in turn, `repeats` rounds, so that what slows the machine slows both; what they return, per side."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            measured[name].append(measure())
    return measured


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def gaps(stamps: Iterable[float]) -> float:
    """The median time between stamps, the first gap (caches, first allocations) left out."""
    return statistics.median(b - a for a, b in pairwise(list(stamps)[1:]))


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratio_claim(what: str, over: list[float], under: list[float], goal: float, at_most: bool = False) -> dict[str, Any]:
    """A claim about the ratio of two sides that were measured in turn: the median of the rounds' ratios, with their range."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    middle = statistics.median(ratios)
    return {
        "what": what,
        "measured": f"{middle:.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]",
        "ratio": middle,
        "goal": f"{'<=' if at_most else '>='} {goal:g}x",
        "met": middle <= goal if at_most else middle >= goal,
    }


def our_trainer(method: str, policy: Any, tokenizer: Any, reward: Any, iterations: int, rows: list[dict[str, Any]], **changes: Any) -> Any:
    """Our trainer with `ROLLOUTS` responses and two updates an iteration, and the times at which iterations ended."""
    import copy

    from vrpo.config import GenerationConfig, TrainConfig
    from vrpo.training.trainer import Trainer

    changes.setdefault("critic", {"warmup_rollouts": 0})
    rollouts = iterations * ROLLOUTS + changes["critic"]["warmup_rollouts"]
    config = TrainConfig(iterations=iterations, rollouts=rollouts, minibatches=2, lr_warmup=0, measure_every=10**6, **changes)
    stamps: list[float] = []
    trainer = Trainer(
        config,
        copy.deepcopy(policy),
        tokenizer,
        rows,
        reward,
        method=method,
        generation=GenerationConfig(max_new_tokens=LENGTH),
        on_log=lambda row: stamps.append(time.perf_counter()),
    )
    return trainer, stamps
