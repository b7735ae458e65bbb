"""TRL 1.12.0's PPOTrainer on a saved policy and reward model; prints the times at which iterations ended. Started by `ppo.py`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.setup import LENGTH, ROLLOUTS, TRL_SETTINGS


def main(folder: Path, iterations: int) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    dataset = Dataset.from_dict({"input_ids": tokenizer(prompts, add_special_tokens=False)["input_ids"]})
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    reward, value = (AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1) for _ in range(2))

    class Stamps(TrainerCallback):
        times: list[float] = []  # noqa: RUF012 (one run a process)

        def on_step_end(self, args, state, control, **kwargs) -> None:
            self.times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output:
        config = PPOConfig(
            output_dir=output,
            per_device_train_batch_size=ROLLOUTS // 2,
            gradient_accumulation_steps=2,
            num_mini_batches=2,
            num_ppo_epochs=1,
            total_episodes=iterations * ROLLOUTS,
            local_rollout_forward_batch_size=ROLLOUTS,
            response_length=LENGTH,
            stop_token="eos",
            temperature=1.0,
            learning_rate=5e-4,
            num_sample_generations=0,
            **TRL_SETTINGS,
        )
        trainer = PPOTrainer(config, tokenizer, policy, reference, reward, dataset, value, callbacks=[Stamps()])
        trainer.train()
    print(json.dumps(Stamps.times))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
