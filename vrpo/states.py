"""Hidden states of a backbone, and which of them predict a response."""

from __future__ import annotations

from torch import Tensor, nn


def backbone_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states [B, L, H]; positions count from the first real token, so left padding changes nothing."""
    position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    return backbone(input_ids=input_ids, attention_mask=attention_mask.long(), position_ids=position_ids, use_cache=False).last_hidden_state


def response_states(hidden: Tensor, response_length: int) -> Tensor:
    """The T positions of [B, P + T, H] whose states predict the response: P - 1 ... P + T - 2. Returns [B, T, H]."""
    return hidden[:, -response_length - 1 : -1]
