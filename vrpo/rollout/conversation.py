"""Responses that may be dialogues: policy and environment take turns, and only the policy's tokens count.

An environment is a function of what the assistant has said so far: `reply(row, turns)` gives the message that follows the
last of the assistant's `turns`, or None when the dialogue is over. It keeps no state, so that a dialogue can be
resumed at any token and its continuation replayed. Between two turns of the assistant stand the very tokens that the
tokenizer's chat template puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vrpo.data.batch import Rollout
from vrpo.data.text import pad_prompts, spans, turn_bridge
from vrpo.rollout.sampler import Sampler
from vrpo.seeding import derive_seed

Environment = Callable[[dict[str, Any], list[str]], str | None]
Reply = Callable[[int, list[str]], str | None]  # the same for the rows of one batch: place of the row, the assistant's turns


def replies(environment: Environment | None, rows: Sequence[dict[str, Any]]) -> Reply | None:
    """An environment bound to the rows of a batch; None (no dialogue) stays None."""
    return None if environment is None else lambda place, turns: environment(rows[place], turns)


@torch.no_grad()
def converse(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    reply: Reply | None = None,
    *,
    seed: int,
    places: Sequence[int] | None = None,
    prefixes: Sequence[tuple[list[int], list[bool]]] | None = None,
) -> Rollout:
    """Sample one response per prompt, of up to `generation.max_turns` turns where `reply` answers them; a dialogue cut there has no last
    reply. Without `reply` it is `Sampler.sample`.

    Args:
        sampler: of the policy.
        prompts: B lists of token ids.
        reply: environment of the batch (see `replies`); its first argument counts the rows of this call.
        seed: fixes the samples, each row's on its own: which dialogues run beside it changes nothing.
        places: see `Sampler.sample`.
        prefixes: begun responses to go on from, token ids and which of them the policy wrote. A turn that is cut in the middle is
            finished first, where the policy would have ended it: its beginning counts into the turn's `max_new_tokens`, and must leave
            room. Log-probabilities are 0 on a prefix.

    Returns:
        Rollout on the CPU, T = the longest response, prefixes included.
    """
    if not prompts:  # a process without a share of the rows
        return Rollout.empty()
    if reply is None and prefixes is None:
        return sampler.sample(prompts, seed=seed, places=places)
    count, tokenizer, max_turns = len(prompts), sampler.tokenizer, sampler.generation.max_turns
    places = range(count) if places is None else places
    stops, longest = set(sampler.ends), sampler.generation.max_new_tokens
    bridge = turn_bridge(tokenizer) if reply is not None else None
    ids = [list(tokens) for tokens, _ in prefixes] if prefixes else [[] for _ in range(count)]
    own = [list(mask) for _, mask in prefixes] if prefixes else [[] for _ in range(count)]
    logprobs = [[0.0] * len(tokens) for tokens in ids]
    turns, started = _begun_turns(tokenizer, ids, own)
    limits = [longest - len(tokens) + start for tokens, start in zip(ids, started, strict=True)] if prefixes else None
    running = list(range(count))
    for turn in range(max_turns):
        part = sampler.sample(
            [[*prompts[row], *ids[row]] for row in running],
            seed=seed if turn == 0 else derive_seed(seed, turn),
            places=[places[row] for row in running],
            limits=limits if turn == 0 else None,
        )
        lengths = part.lengths.tolist()
        for index, row in enumerate(running):
            length = lengths[index]
            ids[row] += part.responses[index, :length].tolist()
            own[row] += [True] * length
            logprobs[row] += part.logprobs[index, :length].tolist()
        if reply is None:
            break
        texts = tokenizer.batch_decode([ids[row][started[row] :] for row in running], skip_special_tokens=True)
        going = []
        for row, text in zip(running, texts, strict=True):
            turns[row].append(text)
            answer = reply(row, turns[row])
            if answer is None or len(turns[row]) >= max_turns:
                continue
            between = bridge(answer)
            between = between[1:] if ids[row][-1] in stops and between[:1] and between[0] in stops else between
            ids[row] += between
            own[row] += [False] * len(between)
            logprobs[row] += [0.0] * len(between)
            started[row] = len(ids[row])
            going.append(row)
        running = going
        if not running:
            break
    return _rollout(prompts, ids, own, logprobs, sampler.pad, dialogue=reply is not None)


def _begun_turns(tokenizer: Any, ids: list[list[int]], own: list[list[bool]]) -> tuple[list[list[str]], list[int]]:
    """The assistant's finished turns in each prefix, as text, and where its turn to be finished begins."""
    turns, started = [], []
    for tokens, mask in zip(ids, own, strict=True):
        parts = spans(torch.tensor(mask, dtype=torch.bool))
        unfinished = parts.pop() if mask and mask[-1] else slice(len(tokens), len(tokens))
        turns.append(tokenizer.batch_decode([tokens[part] for part in parts], skip_special_tokens=True) if parts else [])
        started.append(unfinished.start)
    return turns, started


def _rollout(
    prompts: Sequence[Sequence[int]], ids: list[list[int]], own: list[list[bool]], logprobs: list[list[float]], pad: int, *, dialogue: bool
) -> Rollout:
    width = max(map(len, ids))

    def padded(rows: list[list[Any]], value: Any, dtype: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=dtype)

    prompt_ids, prompt_mask = pad_prompts(prompts, pad)
    response_mask = padded(own, False, torch.bool)
    written = torch.arange(width) < torch.tensor([len(row) for row in ids])[:, None]
    return Rollout(
        prompt_ids,
        prompt_mask,
        padded(ids, pad, torch.long),
        response_mask,
        padded(logprobs, 0.0, torch.float32),
        written & ~response_mask if dialogue else None,
    )
