"""The critic of SAO, single-rollout asynchronous optimisation (arXiv 2607.07508, section 3.2): PPO's, with attention frozen as it was.

The gradient of a critic comes mostly from its attention, the paper finds, and grows until training breaks; feed-forward layers, embeddings,
norms and head go on learning. The rest of the recipe are parameters. With this project's default learning rate of the policy, 5e-4:

    methods: [ppo]
    train:
      learning_rate: 5.0e-4
      critic:
        kind: sao
        epochs: 2               # two critic updates for one of the policy
        learning_rate: 2.5e-3   # five times the policy's
        gae_lambda: 1.0         # the default

and, which is the paper's but no part of the critic, `train.length_adaptive_alpha: 1.5`. Not here: asynchronous sampling, the mask on both
sides of the ratio, and a value model trained on its own data before, in whose place stand `train.critic.warmup_rollouts`.
"""

from __future__ import annotations

import re

from torch import nn

from vrpo.config import CriticConfig
from vrpo.critics.plain import PlainCritic
from vrpo.errors import UserError


def attention_modules(backbone: nn.Module) -> list[nn.Module]:
    """Modules whose class is called attention, whatever the architecture calls its layers; a whole layer has its name from more."""
    return [module for module in backbone.modules() if re.search(r"Attention\d*$", type(module).__name__)]


class SAOCritic(PlainCritic):
    """L = L_mse, with a backbone whose attention does not learn. Adapters (`train.lora`) on attention would learn: keep them off it.

    Raises:
        UserError: the backbone is the policy's, whose attention has to learn, or has no attention.
    """

    def __init__(self, config: CriticConfig, policy: nn.Module, seed: int) -> None:
        if config.backbone == "shared":
            raise UserError("train.critic.backbone = shared: the critic 'sao' would freeze the policy's attention; use separate")
        super().__init__(config, policy, seed)
        frozen = attention_modules(self.model.backbone)
        if not frozen:
            raise UserError(f"train.critic.kind = 'sao': {type(self.model.backbone).__name__} has no attention to freeze; use plain")
        for module in frozen:
            module.requires_grad_(False)
