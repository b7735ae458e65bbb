"""Low-rank adapters through PEFT: put on before training, folded into the weights when a model is saved."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

from torch import nn

from vrpo.config import LoRAConfig
from vrpo.errors import UserError

logger = logging.getLogger(__name__)


def add_lora(model: Any, config: LoRAConfig, seed: int) -> Any:
    """Wrap a policy or a backbone: its weights are frozen, adapters drawn from `seed` learn. Returns a `peft.PeftModel`.

    Raises:
        UserError: `target_modules` names nothing in the model, or what cannot have adapters.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    if config.dropout:
        logger.warning("train.lora.dropout = %g has no effect: dropout acts in no pass of this training; set it to 0", config.dropout)
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=config.target_modules, bias="none")
    shared = [weight for weight, owners in _owners(model).items() if owners > 1 and weight != id(model.get_input_embeddings().weight)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            adapted = get_peft_model(model, settings)
        except ValueError as error:
            raise _misfit(model, config, str(error).splitlines()[0]) from error
    for name, module in adapted.named_modules():
        if isinstance(module, BaseTunerLayer) and id(getattr(module.get_base_layer(), "weight", None)) in shared:
            raise _misfit(model, config, f"{name.removeprefix('base_model.model.')} shares its weight with another layer")
    return adapted


def has_adapters(model: Any) -> bool:
    """Whether a model brings adapters; told without importing PEFT, which takes seconds that most runs need not spend."""
    return any(type(module).__module__.startswith("peft.") for module in model.modules())


def _misfit(model: Any, config: LoRAConfig, reason: str) -> UserError:
    return UserError(
        f"train.lora.target_modules = {config.target_modules!r} does not fit {type(model).__name__} ({reason}); "
        "name linear layers of its own that policy and critic's backbone both have, such as the attention's projections"
    )


def _owners(model: nn.Module) -> Counter[int]:
    """How many modules hold each `weight`, by its id."""
    return Counter(id(module.weight) for module in model.modules() if module._parameters.get("weight") is not None)


def without_lora(model: nn.Module) -> nn.Module:
    """The model itself if it has no adapters, else a copy with them folded into its weights.

    A weight that is tied to another layer's is untied first, and the copy's configuration says so: the adapter is of one of the two.
    """
    if not has_adapters(model):
        return model
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    merged = copy.deepcopy(model.get_base_model() if isinstance(model, PeftModel) else model)
    owners = _owners(merged)
    for name, module in reversed(list(merged.named_modules())):  # adapters on several weights of one module are nested
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            if owners[id(getattr(layer, "weight", None))] > 1:
                owners[id(layer.weight)] -= 1
                layer.weight = nn.Parameter(layer.weight.detach().clone())
                merged.config.get_text_config().tie_word_embeddings = merged.config.tie_word_embeddings = False
            module.merge(safe_merge=True)
            merged.set_submodule(name, layer)
    return merged.requires_grad_(True)
