"""The language-model head of a causal LM: from its backbone's last states to the very logits that the model computes.

Beside a matrix a head may have a bias, a factor (Cohere, Granite, Falcon-H1) and a soft cap (Gemma 2). Factor and cap are found by
showing the model logits of our own choice where its head would put them, not by their names in configurations.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vrpo.errors import UserError
from vrpo.models.lora import has_adapters
from vrpo.models.states import backbone_of, backbone_states, probing

SMALL, LARGE = 2.0**-10, 1e4  # logits that show a factor before any cap acts, and a cap; both exist in half precision
CHUNK_ELEMENTS = 1 << 25  # logits held at once: 128 MiB in float32


def chunk_size(weight: Tensor) -> int:
    """Tokens whose logits under a head's weight [V, H] are held at once."""
    return max(1, CHUNK_ELEMENTS // weight.shape[0])


@dataclass(frozen=True)
class LanguageModelHead:
    """logits = cap(scale * (W x + bias)), cap(u) = soft_cap * tanh(u / soft_cap).

    Attributes:
        weight: float [V, H].
        bias: float [V], or None.
        scale: factor.
        soft_cap: bound of the logits' magnitude, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> LanguageModelHead:
        """The head of a causal LM, on its own weights. Checked against the model's logits when first asked for.

        Raises:
            UserError: the model's logits are not those of a head of this form on the backbone's last states.
        """
        output = model.get_output_embeddings()
        if output is None or getattr(output, "weight", None) is None or output.weight.dim() != 2:
            raise _unknown(model, "its output layer is no matrix")
        if model not in _TRANSFORMS:
            _TRANSFORMS[model] = _transform(model, output)
        return cls(output.weight, getattr(output, "bias", None), *_TRANSFORMS[model])

    @classmethod
    def plain(cls, model: nn.Module) -> LanguageModelHead | None:
        """The head of a causal LM, adapters in its backbone or not; None where it is not of this form, or adapters or hooks act on the
        output layer itself, so that only the model can tell its logits."""
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        output = whole.get_output_embeddings()
        if has_adapters(output) or output._forward_hooks or output._forward_pre_hooks or whole in _UNKNOWN:
            return None
        try:
            return cls.of(whole)
        except UserError:
            _UNKNOWN.add(whole)  # asking costs two passes
            return None

    @classmethod
    def holding(cls, weight: nn.Parameter) -> LanguageModelHead:
        """The head of the living causal LM whose output layer holds `weight`, or the bare matrix where no model does.

        For callers who have a model's weight and not the model. A parameter does not know its module, so all objects are looked
        through, which takes a fraction of a second.

        Raises:
            UserError: as `of`.
        """
        for candidate in gc.get_objects():
            if issubclass(type(candidate), PreTrainedModel):
                output = candidate.get_output_embeddings()
                if getattr(output, "weight", None) is weight:
                    return cls.of(candidate)
        return cls(weight)

    def logits(self, states: Tensor) -> Tensor:
        """[..., V] from states [..., H]."""
        return self.shape(self.linear(states))

    def linear(self, states: Tensor) -> Tensor:
        """The matrix product with its bias."""
        product = states @ self.weight.T
        return product if self.bias is None else product + self.bias

    def shape(self, product: Tensor) -> Tensor:
        """Factor and soft cap on what `linear` gives."""
        scaled = product if self.scale == 1.0 else self.scale * product
        return scaled if self.soft_cap is None else self.soft_cap * torch.tanh(scaled / self.soft_cap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """d logits / d linear, from the logits."""
        return self.scale if self.soft_cap is None else self.scale * (1.0 - (logits / self.soft_cap).square())


_TRANSFORMS: WeakKeyDictionary[nn.Module, tuple[float, float | None]] = WeakKeyDictionary()
_UNKNOWN: WeakSet[nn.Module] = WeakSet()


def _transform(model: Any, output: nn.Module) -> tuple[float, float | None]:
    """Scale and soft cap of a model's head."""
    shown: list[Tensor] = []
    seen: list[Tensor] = []

    def show(module: nn.Module, inputs: tuple[Tensor, ...], product: Tensor) -> Tensor | None:
        seen.append(inputs[0])
        if not shown:
            return None
        flat = product.flatten().clone()
        flat[: len(shown[0])] = shown[0].to(flat)
        return flat.view_as(product)

    hook = output.register_forward_hook(show)
    try:
        with probing(model) as ids:
            mask = torch.ones_like(ids, dtype=torch.bool)
            states = backbone_states(backbone_of(model), ids, mask)
            expected = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits.float()
            if not seen or seen[0].shape != states.shape:
                raise _unknown(model, "its output layer does not read the backbone's last states")
            points = torch.tensor([SMALL, LARGE, *torch.linspace(-50, 50, 11)])
            shown.append(points)
            answers = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits.float().flatten()[: len(points)].cpu()
    finally:
        hook.remove()
    factor = 1.0 if torch.equal(seen[0], states) else float((seen[0] * states).sum() / states.square().sum())  # MiniCPM scales the states
    scale = float(answers[0] / SMALL)
    cap = float(answers[1]) if answers[1].abs() < 0.5 * scale * LARGE else None
    head = LanguageModelHead(output.weight, getattr(output, "bias", None), scale * factor, cap)
    tolerance = 3 * torch.finfo(output.weight.dtype).eps ** 0.5
    shaped = LanguageModelHead(output.weight, None, scale, cap).shape(points[2:])
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):  # a reader may first be asked inside a half-precision pass
        off = (head.logits(states).float() - expected).abs().max() / expected.std()
    if not ((shaped - answers[2:]).abs() <= tolerance * answers[2:].abs()).all():
        raise _unknown(model, "what it does to the output layer's numbers is neither a factor nor a soft cap")
    if not off <= tolerance:
        raise _unknown(model, f"matrix, bias, factor and soft cap give logits that are off by {float(off):.2g} of their spread")
    return scale * factor, cap


def _unknown(model: nn.Module, reason: str) -> UserError:
    return UserError(
        f"{type(model).__name__}: its language-model head is not understood ({reason}); use a critic that does not read it: method ppo, or "
        "critic.entropy_weight: 0 and critic.perplexity_weight: 0, and critic.surprisal_inputs: false"
    )
