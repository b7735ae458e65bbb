"""The update phase against what the machine can do: FLOPs of forward and backward passes a second over those of a matrix product.

FLOPs are those that torch counts while the update runs (matrix products and attention; padding within micro-batches is work, too).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.setup import alternate, spread, timed

HIDDEN, LAYERS = 320, 8  # 10.7M parameters


def run(quick: bool) -> dict[str, Any]:
    from vrpo.config import GenerationConfig, TrainConfig
    from vrpo.data.batch import Experience
    from vrpo.models.loading import new_llama
    from vrpo.tasks.math.chain import new_tokenizer
    from vrpo.training.trainer import Trainer

    rows, width = (16, 32) if quick else (128, 96)
    tokenizer = new_tokenizer()
    model = new_llama(tokenizer, HIDDEN, LAYERS, 5, seed=0)
    config = TrainConfig(iterations=1, rollouts=rows, group_size=2, micro_batch_size=16, critic={"warmup_rollouts": 0})
    prompts = [{"prompt": "1+1.:"}] * rows
    trainer = Trainer(
        config, model, tokenizer, prompts, lambda *_, **__: None, method="grpo", generation=GenerationConfig(max_new_tokens=width)
    )
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(width // 2, width + 1, (rows, 1), generator=random)
    mask = torch.arange(width) < lengths
    tokens = torch.randint(3, len(tokenizer), (rows, width + 16), generator=random)
    noise = torch.randn(rows, width, generator=random)
    batch = Experience(
        prompts=tokens[:, :16],
        prompt_mask=torch.ones(rows, 16, dtype=torch.bool),
        responses=tokens[:, 16:],
        response_mask=mask,
        logprobs=-3 + 0.1 * noise,
        advantages=noise * mask,
    )
    with FlopCounterMode(display=False) as counter:
        trainer.updater.step(copy.copy(batch), 1, True, False)
    flops = counter.get_total_flops()

    def update() -> float:
        return flops / timed(lambda: trainer.updater.step(batch, 1, True, False))

    update(), gemm_rate()
    measured = alternate({"update": update, "products": gemm_rate}, 2 if quick else 9)
    shares = [a / b for a, b in zip(measured["update"], measured["products"], strict=True)]
    middle = spread(shares)
    claim = {
        "what": "update phase, share of the machine's GEMM rate",
        "measured": f"{100 * middle['median']:.0f} % [{100 * middle['min']:.0f}, {100 * middle['max']:.0f}]",
        "ratio": middle["median"],
        "goal": ">= 50 %",
        "met": middle["median"] >= 0.5,
    }
    return {
        "gigaflops_per_second": {name: spread([value / 1e9 for value in values]) for name, values in measured.items()},
        "gigaflops_of_an_update": flops / 1e9,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "where_time_goes": profile(lambda: trainer.updater.step(batch, 1, True, False)),
        "claims": [claim],
    }


def gemm_rate() -> float:
    """FLOPs a second of float32 matrix products: the best of two of the model's shapes and a square one."""
    rates = []
    for m, k, n in [(2048, HIDDEN, 3 * HIDDEN), (2048, HIDDEN, HIDDEN), (1024, 1024, 1024)]:
        a, b = torch.randn(m, k), torch.randn(k, n)
        rates.append(20 * m * k * n / timed(lambda a=a, b=b: [a @ b for _ in range(10)]))
    return max(rates)


def profile(function: Any) -> list[tuple[str, float]]:
    """The five operations that take most time, with their share."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        function()
    averages = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    largest = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:5]
    return [(event.key, round(event.self_cpu_time_total / total, 3)) for event in largest]
