"""The critic of VRPO (arXiv 2508.03058), which is to absorb the noise of rewards. Three changes to the plain one:

1. a variational bottleneck between backbone and value: V_t = q_psi(z_t), z_t ~ N(mu(x_t), sigma^2(x_t)), paid for by
   beta * KL(N(mu, sigma^2) || N(0, I));
2. an entropy loss, 0.5 * mean H[P_V(. | x_t)], on the 80 % of tokens with the highest entropy;
3. a perplexity loss, 0.5 * mean -log P_V(y_t | x_t), on the 80 % with the highest surprisal,

with P_V the softmax of a frozen copy of the SFT model's whole LM head (see `vrpo.models.lm_head`) on the critic's states x_t. Which
tokens are uncertain is decided anew in each iteration, over all its rollouts. With beta = 0, depth 0 and zero weights the plain critic is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.config import CriticConfig
from vrpo.critics.base import Critic
from vrpo.critics.semantics import response_statistics, semantic_losses, top_ratio_mask
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.states import after_last_layer
from vrpo.seeding import generator

ACTIVE_UNIT_NATS = 0.01  # a latent dimension with less KL than this carries nothing


@dataclass(frozen=True)
class SemanticExperience(Experience):
    """With `entropy_mask` and `surprisal_mask`, bool [B, T], the tokens that the two semantic losses act on; None where they are off."""

    entropy_mask: Tensor | None = None
    surprisal_mask: Tensor | None = None


class VariationalCritic(Critic):
    """See `CriticConfig` for depth, beta, weights and activation ratio."""

    Experience = SemanticExperience

    def __init__(self, config: CriticConfig, policy: nn.Module, seed: int) -> None:
        super().__init__(config, policy, seed)
        frozen, self.semantic = config.semantic_head == "frozen", config.entropy_weight > 0 or config.perplexity_weight > 0
        head = LanguageModelHead.of(policy) if self.semantic else LanguageModelHead(policy.get_output_embeddings().weight)
        self._shape = {"scale": head.scale, "soft_cap": head.soft_cap}
        self.model.lm_head = nn.Parameter(head.weight.detach().clone(), requires_grad=not frozen)
        if head.bias is not None:
            self.model.lm_head_bias = nn.Parameter(head.bias.detach().clone(), requires_grad=not frozen)
        if frozen and self.semantic and config.backbone == "separate":
            for module in after_last_layer(self.model.backbone):  # the norm that belongs to the frozen head
                module.requires_grad_(False)

    @property
    def lm_head(self) -> LanguageModelHead:
        """The language-model head on the critic's copy of its weights."""
        return LanguageModelHead(self.model.lm_head, getattr(self.model, "lm_head_bias", None), **self._shape)

    def share(self, cold_start: nn.Module) -> None:
        super().share(cold_start)
        if not self.model.lm_head.requires_grad:
            self.model.lm_head.data = cold_start.get_output_embeddings().weight.data

    def head(self) -> dict[str, Any]:
        return {"depth": self.config.depth, "latent_size": self.config.latent_size}

    def read_states(self, batch: Experience, hidden: Tensor) -> dict[str, Tensor]:
        """Also entropy and surprisal [B, T] under the LM head, in nats; values are those of the latents' means."""
        readings = super().read_states(batch, hidden)
        if self.semantic:
            readings["entropy"], readings["surprisal"] = response_statistics(hidden, self.lm_head, batch.responses, batch.response_mask)
        return readings

    def annotate(self, experience: Experience, readings: dict[str, Tensor]) -> Experience:
        """Choose the tokens of both semantic losses: the top `activation_ratio` over the whole rollout batch."""
        mask, ratio, known = experience.response_mask, self.config.activation_ratio, ("entropy", "surprisal")
        chosen = {f"{name}_mask": top_ratio_mask(readings[name], mask, ratio) for name in known if name in readings}
        return super().annotate(experience, readings | chosen)

    def metrics(self, experience: SemanticExperience, readings: dict[str, Tensor]) -> dict[str, float]:
        """Shares of the chosen tokens; active units of the first bottleneck, and nats through it."""
        mask, active = experience.response_mask, {"entropy": experience.entropy_mask, "surprisal": experience.surprisal_mask}
        metrics = {f"activated_{name}": float(on.sum() / mask.sum().clamp(min=1)) for name, on in active.items() if on is not None}
        if "latent_kl" in readings:
            nats = readings["latent_kl"][mask].mean(0)
            metrics |= {"active_units": float((nats > ACTIVE_UNIT_NATS).sum()), "latent_kl": float(nats.sum())}
        return metrics

    def noise(self, experience: Experience, *key: object) -> Tensor | None:
        """Standard normal draws [B, T, depth, Z] for the latents."""
        shape = (*experience.response_mask.shape, self.config.depth, self.config.latent_size)
        return torch.randn(shape, generator=generator(*key, "latent")) if self.config.depth else None

    def loss(self, batch: SemanticExperience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """L = L_mse + beta * L_kl + L_semantic, L_semantic = 0.5 * L_ent + 0.5 * L_ppl, with the weights of the run."""
        config, metrics = self.config, {}
        output = self.model.head(hidden, batch.latent_noise, batch.critic_inputs)
        terms = {"mse": self.squared_error(batch, output.values, counts)}
        if config.depth and config.beta:
            terms["kl"] = config.beta * masked_mean(output.kl, batch.response_mask, counts["response_mask"])
        if self.semantic:
            terms["semantic"], entropy, perplexity = semantic_losses(
                hidden,
                self.lm_head,
                batch.responses,
                batch.entropy_mask,
                batch.surprisal_mask,
                entropy_weight=config.entropy_weight,
                perplexity_weight=config.perplexity_weight,
                counts=(counts["entropy_mask"], counts["surprisal_mask"]),
            )
            metrics = {"entropy": entropy.item(), "perplexity": perplexity.item()}
        return terms, metrics
