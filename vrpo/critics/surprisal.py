"""What a frozen language model thinks of a response, as inputs of a value head: signs of a wrong step that a critic need not discover.

Not part of the paper: a candidate of our own, to be judged with it off and on (`critic.surprisal_inputs`). A token that the cold start finds
unlikely is often a mistake, and stays so however far the policy has moved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vrpo.critics.semantics import head_statistics
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.states import backbone_of, backbone_states

INPUTS = 4


@torch.no_grad()
def surprisal_inputs(model: Any, input_ids: Tensor, attention_mask: Tensor, counted: Tensor, states: Tensor | None = None) -> Tensor:
    """Four numbers for each position of sequences [B, L], about the tokens up to and including it that count.

    With s_i the surprisal of token i and h_i the entropy of the distribution it was drawn from, both under `model`:
    log(1 + sum s_i), log(1 + max s_i), asinh(sum s_i - h_i), and the entropy of the distribution of the token to come.

    Args:
        model: causal LM, frozen.
        input_ids, attention_mask: [B, L], the mask bool.
        counted: bool [B, L], the tokens of the response.
        states: float [B, L, H], the model's last ones, where they are known.

    Returns:
        float32 [B, L, 4].
    """
    if states is None:
        states = backbone_states(backbone_of(model), input_ids, attention_mask)
    entropy, surprisal = (torch.zeros(input_ids.shape, device=states.device) for _ in range(2))
    following = torch.cat([input_ids[:, 1:], input_ids[:, :1]], dim=1)  # the last column's surprisal is never used
    found = head_statistics(states[attention_mask], LanguageModelHead.of(model), following[attention_mask])
    entropy, surprisal = (empty.masked_scatter(attention_mask, values) for empty, values in zip((entropy, surprisal), found, strict=True))
    zeros = torch.zeros_like(entropy)
    own_surprisal = torch.where(counted, surprisal.roll(1, dims=1), zeros)
    own_entropy = torch.where(counted, entropy.roll(1, dims=1), zeros)
    total = own_surprisal.cumsum(1)
    excess = total - own_entropy.cumsum(1)
    return torch.stack([total.log1p(), own_surprisal.cummax(1).values.log1p(), excess.asinh(), entropy], dim=-1)
