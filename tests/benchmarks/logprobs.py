"""Log-probabilities of a policy with a large vocabulary, in chunks against all logits at once: peak memory, time, gradient.

Each measurement is a process of its own, whose peak is reset after the model and its inputs are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.semantics import peak
from tests.benchmarks.setup import alternate, ratio_claim, spread, timed


def run(quick: bool) -> dict[str, Any]:
    vocabulary, tokens = (20_000, 4_096) if quick else (151_936, 1_024)
    memory: dict[str, list[float]] = {"ours": [], "whole": []}
    with tempfile.TemporaryDirectory() as folder:

        def measure(side: str) -> float:
            command = [sys.executable, "-m", "tests.benchmarks.logprobs", side, str(vocabulary), str(tokens), folder]
            found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            memory[side].append(found["bytes"])
            return found["seconds"]

        seconds = alternate({side: lambda side=side: measure(side) for side in memory}, 1 if quick else 3)
        ours, whole = (torch.load(Path(folder) / f"{side}.pt", weights_only=True) for side in memory)
    difference = float((ours - whole).norm() / whole.norm())
    kind = f"log-probabilities, V = {vocabulary:,}, {tokens:,} tokens"
    return {
        "vocabulary": vocabulary,
        "tokens": tokens,
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "megabytes": {side: spread([value / 1e6 for value in values]) for side, values in memory.items()},
        "gradient_difference": difference,
        "claims": [
            ratio_claim(f"{kind}: peak memory over all logits at once", memory["ours"], memory["whole"], 0.3, at_most=True),
            ratio_claim(f"{kind}: time over all logits at once", seconds["ours"], seconds["whole"], 1.5, at_most=True),
            {
                "what": f"{kind}: gradient, norm of the difference over its norm",
                "measured": f"{difference:.1e}",
                "goal": "<= 1e-06",
                "met": difference <= 1e-6,
            },
        ],
    }


def child(side: str, vocabulary: int, tokens: int, folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from vrpo.data.batch import Rollout
    from vrpo.models import lm_head
    from vrpo.models.forward import policy_forward

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=tokens + 8, tie_word_embeddings=True, **sizes))
    every = torch.ones(1, tokens, dtype=torch.bool)
    rollout = Rollout(
        torch.ones(1, 4, dtype=torch.long), every[:, :4], torch.randint(vocabulary, (1, tokens)), every, torch.zeros(1, tokens)
    )
    if side == "whole":
        lm_head.CHUNK_ELEMENTS = 2 * vocabulary * tokens
    small = Rollout(*(part[:, :2] for part in vars(rollout).values() if part is not None))
    policy_forward(policy, small, 0.9).logprobs.sum().backward()  # gradients are there, the head is known
    policy.zero_grad(set_to_none=False)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()

    def work() -> None:
        policy_forward(policy, rollout, 0.9).logprobs.mean().backward()

    seconds = timed(work)
    print(json.dumps({"seconds": seconds, "bytes": peak() - before}))
    torch.save(policy.model.layers[0].self_attn.q_proj.weight.grad, folder / f"{side}.pt")


if __name__ == "__main__":
    child(sys.argv[1], *map(int, sys.argv[2:4]), Path(sys.argv[4]))
