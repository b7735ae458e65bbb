"""The value model: a causal backbone, a variational bottleneck of depth 0, 1 or 2, and a value decoder.

Depth 0 is the plain PPO critic, V_t = head(x_t). Depth 1 is VRPO's (arXiv 2508.03058): x_t is encoded into a Gaussian,
mu_t = f_mu(x_t), log sigma_t^2 = f_sigma(x_t), and the value is decoded from z_t ~ N(mu_t, sigma_t^2 I). Depth 2 encodes z_t
once more; both KL terms add up. x_t is the hidden state at the position that predicts token t: V_t is the value
of the state *before* the token.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.critics.losses import gaussian_kl
from vrpo.critics.surprisal import INPUTS, surprisal_inputs
from vrpo.data.batch import Rollout
from vrpo.files import present, whole_folder
from vrpo.models.limits import check_tokens
from vrpo.models.lm_head import LanguageModelHead
from vrpo.models.loading import damage_named, refuse_non_finite
from vrpo.models.lora import without_lora
from vrpo.models.states import backbone_of, backbone_states, response_states, states_width

LOG_VARIANCE_RANGE = (-10.0, 4.0)  # keeps exp() finite in half precision
INITIAL_LOG_VARIANCE = -4.0  # sigma about 0.14: early values are not drowned in sampling noise


@dataclass(frozen=True)
class ValueOutput:
    """What the head says about a batch of states.

    Attributes:
        values: float32 [B, T].
        kl: float32 [B, T], nats per token summed over latent dimensions and layers; zeros at depth 0.
        kl_per_dimension: float32 [B, T, Z] of the first bottleneck, None at depth 0.
        outputs: float32 [B, T, K], the decoder's numbers, of which the value is made.
    """

    values: Tensor
    kl: Tensor
    kl_per_dimension: Tensor | None
    outputs: Tensor


class GaussianEncoder(nn.Module):
    """x -> mu, log sigma^2 of a diagonal Gaussian."""

    def __init__(self, in_features: int, latent_size: int) -> None:
        super().__init__()
        self.mu = nn.Linear(in_features, latent_size)
        self.log_variance = nn.Linear(in_features, latent_size)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, INITIAL_LOG_VARIANCE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(x), self.log_variance(x).clamp(*LOG_VARIANCE_RANGE)


class ValueHead(nn.Module):
    """Bottleneck layers and decoder.

    Args:
        hidden_size: H of the backbone's states.
        depth: bottleneck layers, 0 to 2.
        latent_size: Z.
        inputs: F, numbers beside the states (see `vrpo.critics.surprisal`), 0 for none. They enter before the bottleneck.
        outputs: K, the decoder's numbers for each state; with several, a class below this one makes a value of them.
    """

    def __init__(self, hidden_size: int, depth: int, latent_size: int, inputs: int = 0, outputs: int = 1) -> None:
        super().__init__()
        sizes = [hidden_size + inputs] + [latent_size] * depth
        self.encoders = nn.ModuleList(GaussianEncoder(a, b) for a, b in pairwise(sizes))
        self.decoder = nn.Sequential(nn.Linear(sizes[-1], hidden_size), nn.GELU(), nn.Linear(hidden_size, outputs))
        # The first values are the constant 0.5, the middle of a 0/1 reward, instead of random numbers that would
        # reach the policy as advantages.
        nn.init.zeros_(self.decoder[-1].weight)
        nn.init.constant_(self.decoder[-1].bias, 0.5)

    def value(self, outputs: Tensor) -> Tensor:
        """Values [B, T] from the decoder's outputs [B, T, K]."""
        return outputs.squeeze(-1)

    def forward(self, hidden: Tensor, noise: Tensor | None = None, inputs: Tensor | None = None) -> ValueOutput:
        """Decode values from hidden states [B, T, H] and, where the head has some, inputs [B, T, F].

        With `noise`, standard normal [B, T, depth, Z], the latent is sampled (training); without it the latent's mean
        is used, so that reading values is deterministic. The caller draws the noise for a whole optimiser batch, so that
        a micro-batch split changes nothing.
        """
        z = hidden.float() if inputs is None else torch.cat([hidden.float(), inputs], dim=-1)
        kl = torch.zeros(z.shape[:-1], device=z.device)
        first = None
        for layer, encoder in enumerate(self.encoders):
            mu, log_variance = encoder(z)
            kl = kl + gaussian_kl(mu, log_variance)
            if first is None:
                first = gaussian_kl(mu.unsqueeze(-1), log_variance.unsqueeze(-1))
            z = mu if noise is None else mu + torch.exp(0.5 * log_variance) * noise[..., layer, :]
        outputs = self.decoder(z)
        return ValueOutput(self.value(outputs), kl, first, outputs)


class ValueModel(nn.Module):
    """Backbone and head, saved and loaded like any pretrained model.

    Args:
        backbone: a transformer without LM head (`AutoModel`); returns `last_hidden_state` [B, L, H].
        depth, latent_size: see `ValueHead`.
        head: `ValueHead`, or a class below it in a module of `vrpo/critics`; `settings` are its further arguments.
        reader: frozen causal LM whose surprisal the head gets as inputs (see `vrpo.critics.surprisal`), or None.

    Raises:
        UserError: the reader's language-model head is not understood (see `LanguageModelHead.of`).
    """

    def __init__(
        self,
        backbone: nn.Module,
        depth: int = 0,
        latent_size: int = 32,
        reader: nn.Module | None = None,
        head: type[ValueHead] = ValueHead,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reader = None if reader is None else reader.requires_grad_(False)
        if reader is not None:
            LanguageModelHead.of(reader)  # refused now rather than when first read
        self.settings = {"depth": depth, "latent_size": latent_size, **settings}
        self.head = head(states_width(backbone), inputs=0 if reader is None else INPUTS, **self.settings).to(backbone.device)

    @classmethod
    def from_policy(
        cls, policy: nn.Module, *, shared: bool, depth: int, latent_size: int, seed: int, surprisal_inputs: bool = False, **head: Any
    ) -> ValueModel:
        """A value model on a copy of the policy's backbone, or on the very backbone when `shared`. The head is drawn from `seed`."""
        backbone = backbone_of(policy) if shared else copy.deepcopy(backbone_of(policy))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(backbone, depth, latent_size, copy.deepcopy(policy) if surprisal_inputs else None, **head)

    @property
    def backbone_learns(self) -> bool:
        """Whether gradients train the backbone."""
        return any(parameter.requires_grad for parameter in self.backbone.parameters())

    def observe(self, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
        """The backbone's states before each token of the response and after the last column, float [B, T + 1, H], and there the head's inputs
        beside them, float32 [B, T + 1, F], None where it has none."""
        length = rollout.responses.shape[1] + 1
        states = backbone_states(self.backbone, rollout.input_ids, rollout.attention_mask)
        if self.reader is None:
            return states[:, -length:], None
        counted = torch.cat([torch.zeros_like(rollout.prompt_mask), rollout.response_mask], dim=1)
        known = states if self.backbone is backbone_of(self.reader) else None
        inputs = surprisal_inputs(self.reader, rollout.input_ids, rollout.attention_mask, counted, known)
        return states[:, -length:], inputs[:, -length:]

    def states(self, rollout: Rollout) -> Tensor:
        """The backbone's states that predict the response, float [B, T, H]."""
        return response_states(backbone_states(self.backbone, rollout.input_ids, rollout.attention_mask), rollout.responses.shape[1])

    def inputs(self, rollout: Rollout) -> Tensor | None:
        """The head's inputs beside the states that predict the response, float32 [B, T, F]; None where it has none."""
        if self.reader is None:
            return None
        counted = torch.cat([torch.zeros_like(rollout.prompt_mask), rollout.response_mask], dim=1)
        return response_states(
            surprisal_inputs(self.reader, rollout.input_ids, rollout.attention_mask, counted), counted.shape[1] - rollout.prompts.shape[1]
        )

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, noise: Tensor | None = None, response_mask: Tensor | None = None
    ) -> ValueOutput:
        """Values of every prefix: `values[:, t]` is V of the text up to and including token t.

        `response_mask` [B, L], by default the whole text, tells a head with surprisal inputs which tokens the policy wrote.
        """
        inputs = None
        if self.reader is not None:
            inputs = surprisal_inputs(self.reader, input_ids, attention_mask, attention_mask if response_mask is None else response_mask)
        return self.head(backbone_states(self.backbone, input_ids, attention_mask), noise, inputs)

    @torch.no_grad()
    def read(self, rollout: Rollout, batch_size: int = 256) -> Tensor:
        """V(s_t) of every response token, float32 [B, T] on the CPU, 0 where masked."""
        values = torch.zeros(rollout.responses.shape)
        for rows in rollout.micro_batches(batch_size):
            micro = rollout[rows].trim().to(self.backbone.device)
            found = self.head(self.states(micro), inputs=self.inputs(micro)).values
            values[rows, : found.shape[1]] = found.float().cpu()
        return values * rollout.response_mask

    @torch.no_grad()
    def score(self, tokenizer: Any, texts: Sequence[str], prompt_tokens: Sequence[int] | None = None) -> list[list[float]]:
        """Values of every prefix of each text: one number per token, V of the text up to and including it; none for a text without tokens.

        `prompt_tokens` is the number of each text's first tokens that are its prompt; it matters to a head with surprisal inputs.

        Raises:
            UserError: a text is longer than the backbone's positions or holds a token without an embedding.
        """
        scores: list[list[float]] = []
        encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        check_tokens(self.backbone, [tokens or [0] for tokens in encoded], 0, "text", training=False)
        for tokens, start in zip(encoded, prompt_tokens or [0] * len(texts), strict=True):
            if not tokens:
                scores.append([])
                continue
            ids = torch.tensor([tokens], device=self.backbone.device)
            written = torch.arange(ids.shape[1], device=ids.device)[None] >= start
            scores.append(self(ids, torch.ones_like(ids, dtype=torch.bool), response_mask=written).values[0].tolist())
        return scores

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `backbone/` in the usual format, adapters folded in, the head as safetensors beside it, and `reader/` if there is one.

        A kill on the way leaves an earlier folder as it was.

        Raises:
            UserError: a weight is not finite.
        """
        from safetensors.torch import save_file

        refuse_non_finite(self, f"{folder}: the value model to be saved")
        with whole_folder(Path(folder)) as partial:
            without_lora(self.backbone).save_pretrained(partial / "backbone")
            if self.reader is not None:
                self.reader.save_pretrained(partial / "reader")
            save_file({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, partial / "value_head.safetensors")
            kind = type(self.head)
            own = {} if kind is ValueHead else {"head": [kind.__module__.rpartition(".")[2], kind.__name__]}
            (partial / "value_head.json").write_text(json.dumps(self.settings | own) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", **kwargs: Any) -> ValueModel:
        """Load what `save_pretrained` wrote. `kwargs` go to the models' loaders.

        Raises:
            FileNotFoundError: the folder holds no value model.
            UserError: its files are damaged.
        """
        from safetensors.torch import load_file
        from transformers import AutoModel, AutoModelForCausalLM

        folder = present(Path(folder))
        if not (folder / "value_head.json").is_file():
            raise FileNotFoundError(f"{folder} is not a value model: value_head.json is missing (ValueModel.save_pretrained writes it)")
        with damage_named(folder):
            settings = json.loads((folder / "value_head.json").read_text(encoding="utf-8"))
            module, name = settings.pop("head", ("value_model", "ValueHead"))
            settings["head"] = getattr(import_module(f"vrpo.critics.{module}"), name)
            reader = AutoModelForCausalLM.from_pretrained(folder / "reader", **kwargs) if (folder / "reader").is_dir() else None
            model = cls(AutoModel.from_pretrained(folder / "backbone", **kwargs), **settings, reader=reader).to(device)
            model.head.load_state_dict(load_file(folder / "value_head.safetensors"))
        refuse_non_finite(model, f"{folder}: the value model")
        return model.eval()
