"""`vrpo.evaluation.sample_texts` as programs outside know it: with a model and its tokenizer instead of a sampler (see `vrpo.moved`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vrpo.config import GenerationConfig
from vrpo.rollout import samples
from vrpo.rollout.sampler import new_sampler


def sample_texts(
    model: Any, tokenizer: Any, prompts: Sequence[str], count: int, generation: GenerationConfig, **options: Any
) -> tuple[list[list[str]], list[Any]]:
    """`vrpo.rollout.samples.sample_texts` with a sampler of the model's."""
    return samples.sample_texts(new_sampler(model, tokenizer, generation), prompts, count, **options)
