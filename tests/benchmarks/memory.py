"""Peak memory of a process that trains alone against one of two that share a sharded run: policy, reference, critic and their optimisers.

Each measurement is a run of its own with random weights; its peak counts from before the model is made, after a run of a tiny one, so that what
Python and libraries take does not count. The C library gives freed memory back at once (`MALLOC_MMAP_THRESHOLD_`), for both. Run by hand, `python -m tests.benchmarks.memory 10m ppo`: a model of 135M weights (SmolLM2's shape) takes minutes and gigabytes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.semantics import peak
from tests.benchmarks.setup import problems, ratio_claim

LLAMA = {"tie_word_embeddings": True, "max_position_embeddings": 256}
SIZES = {
    "tiny": {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1},
    "10m": {"vocab_size": 4096, "hidden_size": 288, "intermediate_size": 864, "num_hidden_layers": 8, "num_attention_heads": 4},
    "135m": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3},
}
ROWS, TOKENS = 8, 16


def run(size: str, method: str) -> dict[str, Any]:
    """Peaks in bytes of the one process and of both others, and the claim about the larger of these."""
    alone, together = measure(size, method, 1), measure(size, method, 2)
    claim = ratio_claim(
        f"{method}, {size}: peak memory of one of two processes over that of one", [max(together)], alone, 0.6, at_most=True
    )
    return {"alone": alone, "together": together, "claims": [claim]}


def measure(size: str, method: str, count: int) -> list[int]:
    """The peak of each of `count` processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        common = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1]), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "tests.benchmarks.memory", "child", size, method]
    processes = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(count)
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1])["bytes"] for process in processes]


def child(size: str, method: str) -> None:
    train("tiny", method)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    train(size, method)
    print(json.dumps({"bytes": peak() - before}))


def train(size: str, method: str) -> None:
    """Two iterations, the second with the optimisers' states of the first."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from vrpo.config import GenerationConfig, TrainConfig
    from vrpo.tasks.math.chain import new_tokenizer
    from vrpo.training.trainer import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = new_tokenizer()
    policy = LlamaForCausalLM(LlamaConfig(**LLAMA | SIZES[size], bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None))
    sizes = {"iterations": 2, "rollouts": 2 * ROWS, "group_size": 4, "minibatches": 1, "micro_batch_size": 1}
    config = TrainConfig(**sizes, kl_coefficient=0.1, learning_rate=1e-5, critic={"warmup_rollouts": 0}, sharding="full")

    def reward(prompts, responses, **columns):
        return [float(len(text) % 2) for text in responses]

    generation = GenerationConfig(max_new_tokens=TOKENS)
    trainer = Trainer(config, policy, tokenizer, problems(ROWS), reward, method=method, generation=generation)
    del policy
    for iteration in (1, 2):
        trainer.step(iteration)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(*sys.argv[2:])
    else:
        print(json.dumps(run(*sys.argv[1:]), indent=1))
