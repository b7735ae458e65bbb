"""GRPO: our trainer against TRL's GRPOTrainer.

Same model, prompts, group size 8, 192 rollouts and two updates an iteration, loss averaged over tokens, no reference model, the
same reward in Python, nothing logged elsewhere or saved. Time is that between ends of iterations.
"""

from __future__ import annotations

import copy
import tempfile
import time
from typing import Any

from tests.benchmarks.setup import (
    LENGTH,
    ROLLOUTS,
    TRL_SETTINGS,
    alternate,
    gaps,
    our_trainer,
    problems,
    ratio_claim,
    spread,
    tiny_model,
    verify,
)


def run(quick: bool) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = tiny_model(20 if quick else 120)
    rows, iterations = problems(1024), 4 if quick else 10

    def ours() -> float:
        def reward(prompts, responses, answer, **columns):
            return verify(responses, answer)

        trainer, stamps = our_trainer("grpo", model, tokenizer, reward, iterations, rows)
        trainer.run()
        return ROLLOUTS / gaps(stamps)

    class Stamps(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step % 2 == 0:  # two updates an iteration
                self.times.append(time.perf_counter())

    def theirs() -> float:
        def reward(prompts, completions, answer, **columns):
            return verify(completions, answer)

        stamps = Stamps()
        with tempfile.TemporaryDirectory() as folder:
            config = GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=ROLLOUTS // 2,
                steps_per_generation=2,
                num_generations=8,
                max_completion_length=LENGTH,
                max_steps=2 * iterations,
                learning_rate=5e-4,
                temperature=1.0,
                beta=0.0,
                loss_type="dapo",
                **TRL_SETTINGS,
            )
            trainer = GRPOTrainer(
                copy.deepcopy(model), reward, config, Dataset.from_list(rows), processing_class=tokenizer, callbacks=[stamps]
            )
            trainer.train()
        return ROLLOUTS / gaps(stamps.times)

    measured = alternate({"ours": ours, "theirs": theirs}, 1 if quick else 5)
    return {
        "samples_per_second": {name: spread(values) for name, values in measured.items()},
        "rollouts": ROLLOUTS,
        "claims": [ratio_claim("GRPO samples/s over TRL", measured["ours"], measured["theirs"], 2.0)],
    }
