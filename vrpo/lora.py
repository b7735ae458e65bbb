"""Low-rank adapters through PEFT: put on before training, folded into the weights when a model is saved."""

from __future__ import annotations

import copy
import logging
from typing import Any

from torch import nn

from vrpo.config import LoRAConfig

logger = logging.getLogger(__name__)


def add_lora(model: Any, config: LoRAConfig, seed: int) -> Any:
    """Wrap a policy or a backbone: its weights are frozen, adapters drawn from `seed` learn. Returns a `peft.PeftModel`.

    Raises:
        ValueError: `target_modules` names nothing in the model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    if config.dropout:
        logger.warning("train.lora.dropout = %g has no effect: dropout acts in no pass of this training; set it to 0", config.dropout)
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=config.target_modules, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, settings)


def without_lora(model: nn.Module) -> nn.Module:
    """The model itself if it has no adapters, else a copy with them folded into its weights."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        return model
    merged = copy.deepcopy(model.get_base_model() if isinstance(model, PeftModel) else model)
    for name, module in list(merged.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            merged.set_submodule(name, module.get_base_layer())
    return merged.requires_grad_(True)
