"""Sampling 256 responses of mixed lengths: `vrpo.rollout.engines.transformers.generate` against the model's own `generate`.

Both sample from the same model at temperature 1, from the same left-padded prompts, and stop rows at EOS; tokens up to EOS count. Prompts
are all different (PPO) or eight samples each (GRPO); the longest response is the default profile's limit or about twice that.
"""

from __future__ import annotations

from typing import Any

import torch

from tests.benchmarks.setup import LENGTH, alternate, problems, ratio_claim, spread, timed, tiny_model
from vrpo.data.text import encode, pad_prompts
from vrpo.rollout.engines.transformers import generate, generation_settings

BATCH, GROUP = 256, 8


def run(quick: bool) -> dict[str, Any]:
    model, tokenizer = tiny_model(20 if quick else 120)
    results: dict[str, Any] = {"batch": BATCH, "claims": []}
    for limit in (LENGTH, 64):
        for samples in (1, GROUP):
            rows = [row for row in problems(BATCH // samples) for _ in range(samples)]
            found = compare(model, tokenizer, [row["prompt"] for row in rows], limit, 2 if quick else 9)
            what = f"rollout tokens/s over HF generate, {samples} per prompt, at most {limit} tokens"
            results["claims"].append(ratio_claim(what, found["ours"], found["theirs"], 2.0))
            results[f"limit {limit}, {samples} per prompt"] = {name: spread(values) for name, values in found.items()}
    return results


def compare(model: Any, tokenizer: Any, texts: list[str], limit: int, repeats: int) -> dict[str, list[float]]:
    """Tokens a second of both sides, and the lengths of our responses."""
    from vrpo.config import GenerationConfig

    prompts = encode(tokenizer, texts)
    ids, mask = pad_prompts(prompts, tokenizer.pad_token_id)
    settings = generation_settings(model, tokenizer, GenerationConfig(max_new_tokens=limit))
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": limit}
    lengths: list[float] = []

    def ours() -> float:
        rollouts = []
        seconds = timed(lambda: rollouts.append(generate(model, prompts, seed=len(lengths), **settings)))
        lengths.extend(rollouts[0].lengths.tolist())
        return int(rollouts[0].response_mask.sum()) / seconds

    @torch.no_grad()
    def theirs() -> float:
        torch.manual_seed(len(lengths))
        outputs = []
        seconds = timed(lambda: outputs.append(model.generate(input_ids=ids, attention_mask=mask.long(), **sampling, **tokens)))
        ends = (outputs[0][:, ids.shape[1] :] == tokenizer.eos_token_id).long()
        return int((ends.cumsum(1) - ends == 0).sum()) / seconds

    ours(), theirs()
    lengths.clear()
    return alternate({"ours": ours, "theirs": theirs}, repeats) | {"lengths": lengths}
