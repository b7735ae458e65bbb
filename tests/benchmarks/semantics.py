"""Semantic losses at a large vocabulary against a naive version that holds all logits: peak memory, time, gradient.

Each measurement is a process of its own, whose peak is reset after its inputs are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.setup import alternate, ratio_claim, spread, timed


def run(quick: bool) -> dict[str, Any]:
    vocabulary, tokens = (20_000, 512) if quick else (151_936, 4_096)
    results: dict[str, Any] = {"vocabulary": vocabulary, "tokens": tokens, "claims": []}
    for hidden in (64,) if quick else (64, 576):
        memory: dict[str, list[float]] = {"ours": [], "naive": []}
        with tempfile.TemporaryDirectory() as folder:

            def measure(side: str, hidden=hidden, folder=folder, memory=memory) -> float:
                command = [sys.executable, "-m", "tests.benchmarks.semantics", side, *map(str, (vocabulary, tokens, hidden)), folder]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                memory[side].append(found["bytes"])
                return found["seconds"]

            seconds = alternate({side: lambda side=side: measure(side) for side in memory}, 1 if quick else 3)
            gradients = [torch.load(Path(folder) / f"{side}.pt", weights_only=True) for side in memory]
        difference = (gradients[0] - gradients[1]).abs().max().item()
        scale = gradients[1].abs().max().item()
        results[f"hidden_{hidden}"] = {
            "seconds": {side: spread(values) for side, values in seconds.items()},
            "megabytes": {side: spread([value / 1e6 for value in values]) for side, values in memory.items()},
            "gradient_difference": difference,
            "gradient_difference_of_largest": difference / scale,
        }
        kind = f"semantic losses, V = {vocabulary:,}, {tokens:,} tokens, H = {hidden}"
        results["claims"] += [
            ratio_claim(f"{kind}: peak memory over naive", memory["ours"], memory["naive"], 1 / 8, at_most=True),
            ratio_claim(f"{kind}: time over naive", seconds["ours"], seconds["naive"], 1.5, at_most=True),
            {
                "what": f"{kind}: gradient, largest difference (of its largest entry)",
                "measured": f"{difference:.1e} ({difference / scale:.1e})",
                "goal": "<= 1e-05",
                "met": max(difference, difference / scale) <= 1e-5,
            },
        ]
    return results


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Both losses over all tokens, from logits that exist at once."""
    logprobs = torch.log_softmax(hidden @ weight.T, -1)
    return 0.5 * -(logprobs.exp() * logprobs).sum(-1).mean() - 0.5 * logprobs.gather(-1, targets[:, None]).mean()


def peak() -> int:
    """Most bytes that this process held since its peak was reset."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def child(side: str, vocabulary: int, tokens: int, hidden_size: int, folder: Path) -> None:
    from vrpo.critics.semantics import semantic_losses

    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=random).requires_grad_()
    weight = torch.randn(vocabulary, hidden_size, generator=random).mul_(0.1)
    targets = torch.randint(vocabulary, (tokens,), generator=random)
    every = torch.ones(1, tokens, dtype=torch.bool)
    torch.randn(64, 64) @ torch.randn(64, 64)  # loads the matrix library
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()

    def work() -> None:
        loss = naive(hidden, weight, targets) if side == "naive" else semantic_losses(hidden[None], weight, targets[None], every, every)[0]
        loss.backward()

    seconds = timed(work)
    print(json.dumps({"seconds": seconds, "bytes": peak() - before}))
    torch.save(hidden.grad, folder / f"{side}.pt")


if __name__ == "__main__":
    child(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))
