"""Forward passes over responses, shared by scoring and by the losses."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vrpo.data.batch import Rollout
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
    """Run a causal LM over prompt and response; logits exist for response positions only, where the model can leave out others."""
    length = rollout.responses.shape[1]
    attention_mask = rollout.attention_mask
    states: list[Tensor] = []
    with ExitStack() as stack:
        if hidden:
            # What the backbone hands to the head: `output_hidden_states` keeps every layer's, and some models end theirs before the final
            # norm. Some heads call a part of the backbone (OPT's decoder), so that whichever ends last has it.
            for module in backbone_of(policy).modules():
                if isinstance(module, PreTrainedModel):
                    stack.callback(module.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state)).remove)
        output = policy(
            input_ids=rollout.input_ids,
            attention_mask=attention_mask.long(),
            position_ids=(attention_mask.long().cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=length + 1,
        )
    distribution = torch.log_softmax(output.logits[:, -length - 1 : -1].float() / temperature, dim=-1)
    logprobs = distribution.gather(-1, rollout.responses.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        # A suppressed token has logit -inf and adds nothing: 0 * -inf would be NaN.
        entropy = -(distribution.exp() * distribution.clamp(min=torch.finfo(distribution.dtype).min)).sum(-1)
    return PolicyOutput(logprobs, entropy, response_states(states[-1], length) if hidden else None)


@torch.no_grad()
def read_logprobs(policy: Any, rollout: Rollout, temperature: float, batch_size: int) -> Tensor:
    """Log-probabilities of the responses' tokens, float32 [B, T] on the CPU, 0 where masked."""
    logprobs = torch.zeros(rollout.responses.shape)
    for rows in rollout.micro_batches(batch_size):
        micro = rollout[rows].trim().to(policy.device)
        logprobs[rows, : micro.responses.shape[1]] = policy_forward(policy, micro, temperature).logprobs.float().cpu()
    return torch.where(rollout.response_mask, logprobs, 0.0)
