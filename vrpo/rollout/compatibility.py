"""Whether a model is one that can be trained here: tried on a few tokens before any work, whatever its architecture is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from vrpo.data.batch import Rollout
from vrpo.errors import UserError
from vrpo.models.forward import policy_forward
from vrpo.models.lora import has_adapters
from vrpo.models.states import probing

Decode = Callable[..., tuple[Tensor, Tensor, Tensor]]

PROMPTS = ([5, 3, 4, 6], [3], [3])  # of two lengths, one of them twice
DRAWS = ([0.9, 0.6, 0.9], [0.1, 0.6, 0.9], [0.1, 0.6, 0.9])  # small ones choose early tokens

_decodable: WeakSet[nn.Module] = WeakSet()


def check_policy(model: Any, gradient_checkpointing: bool) -> None:
    """Refuse a policy that cannot be trained as it is.

    Raises:
        UserError: it brings adapters of its own, or quantised weights, is no decoder, or cannot recompute activations where it should.
    """
    name = type(model).__name__
    if has_adapters(model):
        raise UserError(
            f"policy: {name} brings adapters of its own; fold them in (policy.merge_and_unload()), and set train.lora to train new ones"
        )
    if getattr(model.config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
        raise UserError(f"policy: {name} is no decoder-only language model; load one with AutoModelForCausalLM")
    if gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(f"train.gradient_checkpointing = true: {name} has none; set it to false")
    integers = [place for place, parameter in model.named_parameters() if not parameter.is_floating_point()]
    if integers or getattr(model, "is_quantized", False):
        raise UserError(f"policy: {name} has quantised weights ({(integers or ['all'])[0]}), which cannot be trained; load it unquantised")


def check_decoding(model: Any, decode: Decode) -> None:
    """Make sure, once for each model, that padded, cached decoding and scoring say of every token what the plain model says of it.

    Args:
        model: causal LM.
        decode: `vrpo.rollout.engines.transformers`'s, of one padded batch.

    Raises:
        UserError: they differ, or fail.
    """
    if model in _decodable:
        return
    vocabulary = model.get_input_embeddings().weight.shape[0]
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + [token % vocabulary for token in prompt] for prompt in PROMPTS], device=model.device)
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in PROMPTS], device=model.device)
    uniforms = torch.tensor(DRAWS, dtype=torch.float64, device=model.device)
    longest = torch.full((len(PROMPTS),), len(DRAWS[0]), device=model.device)
    for stops in (ids.new_tensor([]), torch.arange(vocabulary // 2, device=model.device)):  # nothing ends a response; some tokens do
        try:
            with probing(model):
                responses, response_mask, logprobs = decode(model, ids, mask, uniforms, longest, 1.0, stops)
                rollout = Rollout(ids, mask, responses, response_mask, logprobs)
                scored = policy_forward(model, rollout, 1.0).logprobs
                plain, spread = _plain(model, rollout)
        except UserError:  # of the limits and weights that decoding itself looks at
            raise
        except Exception as error:  # every architecture fails in its own way
            reason = next(iter(str(error).splitlines()), "")
            raise _refused(model, f"decoding fails ({type(error).__name__}: {reason})") from error
        off = max(float((found - plain)[response_mask].abs().max() / spread) for found in (logprobs, scored))
        if torch.isfinite(plain).all() and not off <= 3 * torch.finfo(model.dtype).eps ** 0.5:  # broken weights are another error's to name
            raise _refused(model, f"with padding and a cache, log-probabilities are off by {off:.2g} of the logits' spread")
    _decodable.add(model)


def _plain(model: Any, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, T] of the responses, each row alone, without padding, cache or positions, and the logits' spread."""
    rows, spreads = [], []
    for prompt, mask, response in zip(rollout.prompts, rollout.prompt_mask, rollout.responses, strict=True):
        logits = model(input_ids=torch.cat([prompt[mask], response])[None], use_cache=False).logits[0, -len(response) - 1 : -1].float()
        rows.append(torch.log_softmax(logits, dim=-1).gather(-1, response[:, None])[:, 0])
        spreads.append(logits[logits.isfinite()].std())  # a suppressed token's logit is -inf
    return torch.stack(rows), torch.stack(spreads).mean()


def _refused(model: Any, reason: str) -> UserError:
    adapted = hasattr(model, "get_base_model")
    name = type(model.get_base_model() if adapted else model).__name__ + (" with adapters" if adapted else "")
    cure = (
        "name other train.lora.target_modules, such as the attention's projections"
        if adapted
        else "use another architecture, or an attention-only model of this family"
    )
    return UserError(f"policy: {name} cannot be sampled from in padded batches: {reason}; {cure}")
