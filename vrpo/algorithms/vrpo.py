"""VRPO (arXiv 2508.03058) as a difference from PPO: the policy update is the same, the value model absorbs the noise.

Three changes to the critic:

1. a variational bottleneck between backbone and value: V_t = q_psi(z_t), z_t ~ N(mu(x_t), sigma^2(x_t)), paid for by
   beta * KL(N(mu, sigma^2) || N(0, I));
2. an entropy loss, 0.5 * mean H[P_V(. | x_t)], on the 80 % of tokens with the highest entropy;
3. a perplexity loss, 0.5 * mean -log P_V(y_t | x_t), on the 80 % with the highest surprisal,

with P_V the softmax of a frozen copy of the SFT model's whole LM head (see `vrpo.models.lm_head`) on the critic's states x_t. Which tokens are uncertain is
decided anew in each iteration, over all its rollouts. With beta = 0, depth 0 and zero weights nothing is left but PPO.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from vrpo.algorithms.ppo import PPO
from vrpo.critics.semantics import response_statistics, semantic_losses, top_ratio_mask
from vrpo.critics.value_model import ValueModel
from vrpo.data.batch import Experience
from vrpo.data.masking import masked_mean
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.states import after_last_layer


class VRPO(PPO):
    """PPO with the paper's value model. Arguments as `PPO`; see `CriticConfig` for depth, beta, weights and activation ratio."""

    def build_critic(self, policy: nn.Module, seed: int) -> ValueModel:
        critic_config = self.config.critic
        critic = ValueModel.from_policy(
            policy,
            shared=critic_config.backbone == "shared",
            depth=critic_config.depth,
            latent_size=critic_config.latent_size,
            seed=seed,
            surprisal_inputs=critic_config.surprisal_inputs,
        )
        frozen = critic_config.semantic_head == "frozen"
        self._head = LanguageModelHead.of(policy) if self._semantic else LanguageModelHead(policy.get_output_embeddings().weight)
        critic.lm_head = nn.Parameter(self._head.weight.detach().clone(), requires_grad=not frozen)
        if self._head.bias is not None:
            critic.lm_head_bias = nn.Parameter(self._head.bias.detach().clone(), requires_grad=not frozen)
        if frozen and self._semantic and critic_config.backbone == "separate":
            for module in after_last_layer(critic.backbone):  # the norm that belongs to the frozen head
                module.requires_grad_(False)
        return critic

    @property
    def head(self) -> LanguageModelHead:
        """The language-model head on the critic's copy of its weights."""
        return replace(self._head, weight=self.critic.lm_head, bias=getattr(self.critic, "lm_head_bias", None))

    @property
    def _semantic(self) -> bool:
        return self.config.critic.entropy_weight > 0 or self.config.critic.perplexity_weight > 0

    def read(self, batch: Experience, hidden: Tensor) -> dict[str, Tensor]:
        """Values (from the latent's mean), latent KL [B, T, Z], and entropy and surprisal under the LM head."""
        inputs = self.critic.inputs(batch)
        output = self.critic.head(hidden, inputs=inputs)
        readings = {"values": output.values} | ({} if inputs is None else {"critic_inputs": inputs})
        if output.kl_per_dimension is not None:
            readings["latent_kl"] = output.kl_per_dimension
        if self._semantic:
            readings["entropy"], readings["surprisal"] = response_statistics(hidden, self.head, batch.responses, batch.response_mask)
        return readings

    def annotate(self, experience: Experience, readings: dict[str, Tensor]) -> Experience:
        """Choose the tokens of both semantic losses: the top `activation_ratio` over the whole rollout batch."""
        experience = super().annotate(experience, readings)
        if not self._semantic:
            return experience
        mask, ratio = experience.response_mask, self.config.critic.activation_ratio
        return replace(
            experience,
            entropy_mask=top_ratio_mask(readings["entropy"], mask, ratio),
            surprisal_mask=top_ratio_mask(readings["surprisal"], mask, ratio),
        )

    def value_terms(self, batch: Experience, hidden: Tensor, counts: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """L_value = L_mse + beta * L_kl + L_semantic, L_semantic = 0.5 * L_ent + 0.5 * L_ppl, with the weights of the run."""
        config = self.config.critic
        output = self.critic.head(hidden, batch.latent_noise, batch.critic_inputs)
        terms, metrics = {"mse": self._mse(batch, output.values, counts)}, {}
        if config.depth and config.beta:
            terms["kl"] = config.beta * masked_mean(output.kl, batch.response_mask, counts["response_mask"])
        if self._semantic:
            terms["semantic"], entropy, perplexity = semantic_losses(
                hidden,
                self.head,
                batch.responses,
                batch.entropy_mask,
                batch.surprisal_mask,
                entropy_weight=config.entropy_weight,
                perplexity_weight=config.perplexity_weight,
                counts=(counts["entropy_mask"], counts["surprisal_mask"]),
            )
            metrics = {"entropy": entropy.item(), "perplexity": perplexity.item()}
        return terms, metrics
