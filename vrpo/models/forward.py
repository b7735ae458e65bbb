"""Forward passes over responses, shared by scoring and by the losses."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from vrpo.data.batch import Rollout
from vrpo.models import lm_head
from vrpo.models.lm_head import LanguageModelHead, chunk_size
from vrpo.models.states import backbone_of, response_states


@dataclass(frozen=True)
class PolicyOutput:
    """What the policy says about a rollout.

    Attributes:
        logprobs: float32 [B, T] of the response's tokens, at the sampling temperature.
        entropy: float32 [B, T] of the next-token distribution, without gradient.
        hidden: float [B, T, H], the states that predict the response; None unless asked for.
    """

    logprobs: Tensor
    entropy: Tensor
    hidden: Tensor | None


def policy_forward(policy: Any, rollout: Rollout, temperature: float, hidden: bool = False) -> PolicyOutput:
    """Run a causal LM over prompt and response; logits exist for response positions only, where the model can leave out others.

    Where they are more than `vrpo.models.lm_head.CHUNK_ELEMENTS` they never exist at once (see `ChunkedLogprobs`), unless the model's head
    is none that we understand.
    """
    length = rollout.responses.shape[1]
    attention_mask = rollout.attention_mask
    inputs = {
        "input_ids": rollout.input_ids,
        "attention_mask": attention_mask.long(),
        "position_ids": (attention_mask.long().cumsum(1) - 1).clamp(min=0),
        "use_cache": False,
    }
    if head := _large_head(policy, rollout):
        states = response_states(backbone_of(policy)(**inputs).last_hidden_state, length)
        logprobs, entropy = ChunkedLogprobs.apply(states, head.weight, head.bias, head, rollout.responses, temperature)
        return PolicyOutput(logprobs, entropy, states if hidden else None)
    seen: list[Tensor] = []
    with ExitStack() as stack:
        if hidden:
            # What the backbone hands to the head: `output_hidden_states` keeps every layer's, and some models end theirs before the final
            # norm. Some heads call a part of the backbone (OPT's decoder), so that whichever ends last has it.
            for module in backbone_of(policy).modules():
                if isinstance(module, PreTrainedModel):
                    stack.callback(module.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state)).remove)
        output = policy(**inputs, logits_to_keep=length + 1)
    distribution = torch.log_softmax(output.logits[:, -length - 1 : -1].float() / temperature, dim=-1)
    logprobs = distribution.gather(-1, rollout.responses.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        # A suppressed token has logit -inf and adds nothing: 0 * -inf would be NaN.
        entropy = -(distribution.exp() * distribution.clamp(min=torch.finfo(distribution.dtype).min)).sum(-1)
    return PolicyOutput(logprobs, entropy, response_states(seen[-1], length) if hidden else None)


def _large_head(policy: Any, rollout: Rollout) -> LanguageModelHead | None:
    """The policy's head, where the logits of all response positions are too many to exist at once and it can be computed in parts."""
    vocabulary = policy.get_input_embeddings().weight.shape[0]
    return LanguageModelHead.plain(policy) if rollout.responses.numel() * vocabulary > lm_head.CHUNK_ELEMENTS else None


class ChunkedLogprobs(torch.autograd.Function):
    """Log-probabilities [B, T] of tokens under a head on states [B, T, H], and the distribution's entropy, without gradient.

    The [B * T, V] logits exist in chunks alone, in the backward pass again: d logprob_n / d logit_nj = ([j = y_n] - p_nj) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, head: LanguageModelHead, tokens: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(states, weight, bias, tokens)
        ctx.head, ctx.temperature, ctx.device = head, temperature, states.device.type
        ctx.autocast = {"enabled": torch.is_autocast_enabled(ctx.device), "dtype": torch.get_autocast_dtype(ctx.device)}
        size, parts = chunk_size(weight), []
        for x, y in zip(states.flatten(0, 1).split(size), tokens.flatten().split(size), strict=True):
            logprobs = _distribution(head.logits(x), temperature)
            chosen = logprobs.gather(-1, y[:, None])[:, 0]
            # A suppressed token has logit -inf and adds nothing: 0 * -inf would be NaN.
            logprobs.clamp_(min=torch.finfo(logprobs.dtype).min)
            with torch.autocast(ctx.device, enabled=False):  # else in half precision
                parts.append((chosen, -torch.linalg.vecdot(logprobs.exp(), logprobs)))
        logprobs, entropy = (torch.cat(part).view(tokens.shape) for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        states, weight, bias, tokens = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        gradients = [torch.zeros_like(part) if asked else None for part, asked in zip((states, weight, bias), wanted, strict=True)]
        size, head = chunk_size(weight), replace(ctx.head, weight=weight, bias=bias)
        places = range(0, tokens.numel(), size)
        flat = states.flatten(0, 1)
        for start, y, g in zip(places, tokens.flatten().split(size), upstream.flatten().split(size), strict=True):
            rows = slice(start, start + size)
            with torch.autocast(ctx.device, **ctx.autocast):
                product = head.linear(flat[rows])
                logits = head.shape(product)
            slope, kind = head.slope(logits) if head.soft_cap is not None else head.scale, product.dtype
            gradient = _distribution(logits, ctx.temperature).exp_().mul_(-g[:, None]).scatter_add_(1, y[:, None], g[:, None])
            del logits, product
            gradient = gradient.mul_(slope).div_(ctx.temperature).to(kind)
            with torch.autocast(ctx.device, **ctx.autocast):
                if gradients[0] is not None:
                    gradients[0].view_as(flat)[rows] = gradient @ weight
                if gradients[1] is not None:
                    gradients[1] += gradient.T @ flat[rows]
                if gradients[2] is not None:
                    gradients[2] += gradient.sum(0)
        return *gradients, None, None, None


def _distribution(logits: Tensor, temperature: float) -> Tensor:
    """float32 log-probabilities [N, V]."""
    return torch.log_softmax(logits.float() / temperature if temperature != 1.0 else logits.float(), dim=-1)


@torch.no_grad()
def read_logprobs(policy: Any, rollout: Rollout, temperature: float, batch_size: int) -> Tensor:
    """Log-probabilities of the responses' tokens, float32 [B, T] on the CPU, 0 where masked."""
    logprobs = torch.zeros(rollout.responses.shape)
    for rows in rollout.micro_batches(batch_size):
        micro = rollout[rows].trim().to(policy.device)
        logprobs[rows, : micro.responses.shape[1]] = policy_forward(policy, micro, temperature).logprobs.float().cpu()
    return torch.where(rollout.response_mask, logprobs, 0.0)
