"""Text and tokens: prompts in, responses out, whose tokens a turn has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vrpo.data.batch import Rollout
from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.errors import UserError


def pad_prompts(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Left-pad token lists to int64 [B, P] and a bool mask [B, P]."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = True
    return ids, mask


def end_tokens(model, tokenizer) -> list[int]:
    """The tokens that end a response: the tokenizer's, on which demonstrations end, and those of the model's generation configuration.

    Raises:
        UserError: neither names one.
    """
    named = (tokenizer.eos_token_id, getattr(getattr(model, "generation_config", None), "eos_token_id", None))
    ends = dict.fromkeys(token for ids in named if ids is not None for token in ([ids] if isinstance(ids, int) else ids))
    if not ends:
        raise UserError(
            "neither the tokenizer nor the model's generation configuration has an end-of-text token, so no response would end; "
            "set tokenizer.eos_token"
        )
    return list(ends)


def encode(tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Prompts as token ids; special tokens are part of the text (see `vrpo.tasks.base`)."""
    return tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []


def decode(tokenizer, rollout: Rollout) -> list[str]:
    """Responses as text, without special tokens. A dialogue gives the policy's turns, joined by `TURN_SEPARATOR`."""
    texts = []
    for ids, mask in zip(rollout.responses, rollout.response_mask, strict=True):
        turns = [ids[mask]] if rollout.environment_mask is None else [ids[turn] for turn in spans(mask)]
        texts.append(turns)
    flat = iter(tokenizer.batch_decode([turn.tolist() for turns in texts for turn in turns], skip_special_tokens=True))
    return [TURN_SEPARATOR.join(next(flat) for _ in turns) for turns in texts]


def spans(mask: Tensor) -> list[slice]:
    """The runs of True of a mask [T], in order."""
    edges = torch.diff(mask.int(), prepend=torch.zeros(1, dtype=torch.int32), append=torch.zeros(1, dtype=torch.int32)).nonzero()[:, 0]
    return [slice(start, end) for start, end in edges.view(-1, 2).tolist()]


MARK = "ASSISTANT-TURN"


def turn_bridge(tokenizer: Any) -> Callable[[str], list[int]]:
    """What follows an assistant's turn when a message answers it: token ids up to where the assistant speaks again, end of turn first.

    Raises:
        UserError: the tokenizer has no chat template, or one that changes what the assistant said.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("a dialogue needs a tokenizer with a chat template, and this one has none; set tokenizer.chat_template")
    return lambda message: list(_between(tokenizer, tokenizer.chat_template, message))


@lru_cache(maxsize=1 << 16)
def _between(tokenizer: Any, template: str, message: str) -> tuple[int, ...]:
    turns = [{"role": "user", "content": "."}, {"role": "assistant", "content": MARK}, {"role": "user", "content": message}]
    text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True)
    _, found, after = text.partition(MARK)
    if not found:
        raise UserError("the tokenizer's chat template does not repeat what the assistant said; dialogues cannot be built with it")
    return tuple(tokenizer(after, add_special_tokens=False)["input_ids"])


def encode_turns(tokenizer: Any, messages: Sequence[str], model: Any = None) -> tuple[list[int], list[bool]]:
    """Token ids of a dialogue after its prompt, and which of them the assistant wrote. `messages` begin with the assistant and alternate.

    As in `converse`, the template's end of a turn gives way to the assistant's own, if it is one of `model`'s (see `end_tokens`).
    """
    bridge, ends = turn_bridge(tokenizer), end_tokens(model, tokenizer)
    ids: list[int] = []
    own: list[bool] = []
    for place, message in enumerate(messages):
        if place % 2:
            between = bridge(message)
            between = between[1:] if between and between[0] in ends else between
        else:
            between = [*tokenizer(message, add_special_tokens=False)["input_ids"], ends[0]]
        ids += between
        own += [place % 2 == 0] * len(between)
    return ids, own
