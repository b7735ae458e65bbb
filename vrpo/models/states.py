"""The backbone of a causal language model: its hidden states, how wide they are, which of them predict a response, and what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vrpo.errors import UserError


def backbone_of(model: nn.Module) -> nn.Module:
    """The transformer below the language-model head of a causal LM, with or without adapters on it.

    Raises:
        UserError: the model has no part of its own below its head.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = whole.base_model
    if backbone is whole:  # the prefix of some classes is that of a larger model
        embeddings = whole.get_input_embeddings()
        backbone = next((child for child in whole.children() if embeddings in child.modules() and child is not embeddings), None)
    if backbone is None:
        raise UserError(
            f"{type(whole).__name__}: has no backbone below its language-model head for a value model; use a method without a critic (grpo)"
        )
    return backbone


def backbone_states(backbone: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states [B, L, H]; positions count from the first real token, so left padding changes nothing."""
    position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
    return backbone(input_ids=input_ids, attention_mask=attention_mask.long(), position_ids=position_ids, use_cache=False).last_hidden_state


def response_states(hidden: Tensor, response_length: int) -> Tensor:
    """The T positions of [B, P + T, H] whose states predict the response: P - 1 ... P + T - 2. Returns [B, T, H]."""
    return hidden[:, -response_length - 1 : -1]


@contextmanager
def probing(model: nn.Module) -> Iterator[Tensor]:
    """A few token ids [2, 5] to try a model on, which is in evaluation mode, without gradient and in its own precision meanwhile."""
    was_training = model.training
    model.eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, 5), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield ids.to(model.device)
    finally:
        model.train(was_training)


def states_width(backbone: nn.Module) -> int:
    """H of the backbone's last states, which may differ from `hidden_size` (OPT-350m projects them)."""
    with probing(backbone) as ids:
        return backbone_states(backbone, ids, torch.ones_like(ids, dtype=torch.bool)).shape[-1]


def outermost_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a model: members of its outermost module lists; names play no part."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [module for name, module in lists if not any(name.startswith(f"{outer}.") for outer, _ in lists)]
    return [layer for layers in outermost for layer in layers]


def after_last_layer(backbone: nn.Module) -> list[nn.Module]:
    """What acts on the output of the last layer (see `outermost_layers`), in order: the final norm where there is one, a projection in some
    models."""
    inside = {id(module) for layer in outermost_layers(backbone) for module in layer.modules()}
    order: list[nn.Module] = []
    own = [module for module in backbone.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [module.register_forward_hook(lambda module, *_: order.append(module)) for module in own]
    try:
        with probing(backbone) as ids:
            backbone_states(backbone, ids, torch.ones_like(ids, dtype=torch.bool))
    finally:
        for hook in hooks:
            hook.remove()
    last = max((place for place, module in enumerate(order) if id(module) in inside), default=len(order) - 1)
    return order[last + 1 :]
