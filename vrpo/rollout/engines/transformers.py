"""The engine beside the trainer: batched decoding on the very model, with a key-value cache that drops rows as they
finish.

Every row has its own stream of uniform numbers, drawn before decoding and turned into tokens by inverting the cumulative
distribution. A sample therefore does not depend on which rows are decoded beside it: any generation batch size gives the
same responses (up to floating-point ties).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from vrpo.data.batch import Rollout
from vrpo.data.text import end_tokens, pad_prompts
from vrpo.errors import UserError
from vrpo.models.limits import table_end
from vrpo.models.precision import broken_logits
from vrpo.rollout.compatibility import check_decoding, check_policy
from vrpo.rollout.sampler import Sampler

COMPACT_BELOW = 0.85  # copy the cache once fewer than this share of its rows is still running


class HFSampler(Sampler):
    """`generate` on the model itself, with its weights of the moment."""

    def sample(
        self, prompts: Sequence[Sequence[int]], *, seed: int, places: Sequence[int] | None = None, limits: Sequence[int] | None = None
    ) -> Rollout:
        settings = self.generation.model_dump(include={"max_new_tokens", "temperature", "batch_size"})
        settings |= {"eos_token_id": self.ends, "pad_token_id": self.pad}
        return generate(self.model, prompts, seed=seed, places=places, limits=limits, **settings)


@torch.no_grad()
def generate(
    model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    eos_token_id: int | Sequence[int],
    pad_token_id: int,
    seed: int,
    batch_size: int = 512,
    places: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
) -> Rollout:
    """Sample one response per prompt.

    Args:
        model: causal LM on its device.
        prompts: B lists of token ids, none empty.
        max_new_tokens: longest response; a response cut here has no EOS.
        temperature: of the sampling distribution; `logprobs` are taken at the same temperature.
        eos_token_id: one id or several, each ends a response and counts as part of it.
        batch_size: rows decoded together.
        seed, places, limits: see `Sampler.sample`.

    Returns:
        Rollout on the CPU, T = the longest response.

    Raises:
        UserError: a text grows longer than a model with learned positions can read; or logits are NaN or infinite, with the cause.
    """
    places = torch.arange(len(prompts)) if places is None else torch.tensor(list(places), dtype=torch.long)
    drawn = int(places.max()) + 1 if len(places) else 0
    uniforms = torch.rand((drawn, max_new_tokens), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[places]
    stops = torch.tensor([eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id), device=model.device)
    longest = torch.tensor([max_new_tokens] * len(prompts) if limits is None else list(limits))
    ids, mask = pad_prompts(prompts, pad_token_id)
    shape = (len(prompts), max_new_tokens)
    responses = torch.full(shape, pad_token_id, dtype=torch.long)
    response_mask = torch.zeros(shape, dtype=torch.bool)
    logprobs = torch.zeros(shape)
    was_training = model.training
    model.eval()
    check_decoding(model, _decode)
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, start + batch_size)
        own = (part[rows].to(model.device) for part in (ids, mask, uniforms, longest))
        part = _decode(model, *own, temperature, stops)
        for target, source in zip((responses, response_mask, logprobs), part, strict=True):
            target[rows, : source.shape[1]] = source.to(target.device)
    model.train(was_training)
    width = int(response_mask.sum(1).max())
    responses = torch.where(response_mask, responses, torch.full_like(responses, pad_token_id))
    return Rollout(ids, mask, responses[:, :width], response_mask[:, :width], logprobs[:, :width])


def check_model(model, gradient_checkpointing: bool = False) -> None:
    """Refuse a policy that cannot be trained or sampled from (see `vrpo.rollout.compatibility`).

    Raises:
        UserError: names the model, the reason and the cure.
    """
    check_policy(model, gradient_checkpointing)
    check_decoding(model, _decode)


def _decode(
    model, ids: Tensor, mask: Tensor, uniforms: Tensor, longest: Tensor, temperature: float, stops: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode one batch; returns responses, response_mask, logprobs, each [B, steps]."""
    count, steps = uniforms.shape
    responses = torch.zeros((count, steps), dtype=torch.long, device=ids.device)
    response_mask = torch.zeros((count, steps), dtype=torch.bool, device=ids.device)
    logprobs = torch.zeros((count, steps), device=ids.device)
    cache = DynamicCache(config=model.config)
    rows = torch.arange(count, device=ids.device)  # which response each row of the cache belongs to
    running = torch.ones(count, dtype=torch.bool, device=ids.device)
    # Rows of one prompt (groups, votes, continuations of one state) are read once.
    (ids, mask), prompt_of = _distinct(ids, mask)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    tokens, attention = ids, mask.long()
    limit, width = table_end(model), ids.shape[1]
    for step in range(steps):
        output = model(
            input_ids=tokens, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        logits = output.logits[:, -1]
        if step == 0:
            cache.reorder_cache(prompt_of)
            logits, positions, attention = logits[prompt_of], positions[prompt_of], attention[prompt_of]
        distribution = torch.log_softmax(logits.float() / temperature, dim=-1)
        cumulative = distribution.double().exp().cumsum(-1)
        broken = running & ~cumulative[:, -1].isfinite()
        threshold = uniforms[rows, step, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, threshold, right=True).clamp(max=distribution.shape[-1] - 1)
        alive = rows[running]
        responses[alive, step] = chosen[running, 0]
        response_mask[alive, step] = True
        logprobs[alive, step] = distribution.gather(1, chosen)[running, 0]
        if limit is not None and width + step >= limit and int(positions[running, -1].max()) + 1 >= limit:
            raise UserError(
                f"a text grew beyond the model's {limit} positions; lower generation.max_new_tokens or max_turns, or shorten prompts"
            )
        running = running & ~torch.isin(chosen[:, 0], stops) & (longest[rows] > step + 1)
        left, without_distribution = torch.stack([running.sum(), broken.sum()]).tolist()
        if without_distribution:
            raise broken_logits(model, logits[broken], temperature)
        if left == 0:
            return responses[:, : step + 1], response_mask[:, : step + 1], logprobs[:, : step + 1]
        tokens, positions = chosen, positions[:, -1:] + 1
        if limit is not None:
            positions = positions.clamp(max=limit - 1)  # rows that have ended, until they are dropped
        attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=1)
        if left < COMPACT_BELOW * len(rows):
            cache.reorder_cache(running.nonzero().squeeze(1))
            rows, tokens, positions, attention, running = (
                rows[running],
                tokens[running],
                positions[running],
                attention[running],
                running[running],
            )
    return responses, response_mask, logprobs


def _distinct(ids: Tensor, mask: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The different rows of padded prompts [B, P], ids and mask, and which of them each of the B rows is."""
    keyed = torch.where(mask, ids, -1)
    different, index = torch.unique(keyed, dim=0, return_inverse=True)
    return (different.clamp(min=0), different >= 0), index


def generation_settings(model, tokenizer, config) -> dict:
    """Keyword arguments of `generate` other than the seed, from a model, its tokenizer and a `GenerationConfig`."""
    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id
    settings = config.model_dump(include={"max_new_tokens", "temperature", "batch_size"})
    return settings | {"eos_token_id": ends, "pad_token_id": ends[0] if pad is None else pad}
