"""Batches that travel through the trainer, with their shapes.

Notation used everywhere: B rollouts, P prompt positions, T response positions, H hidden size, V vocabulary. Prompts are
padded on the left, responses on the right; masks are bool and True counts. Padding is known by masks alone, never by the
pad token's id, since many models use EOS as padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor


class _Rows:
    """Row-wise indexing shared by the batch types: fields are tensors with B rows or None."""

    def __getitem__(self, rows: Tensor | slice):
        return replace(self, **{f.name: value[rows] for f in fields(self) if (value := getattr(self, f.name)) is not None})

    def to(self, device: torch.device | str):
        return replace(self, **{f.name: value.to(device) for f in fields(self) if (value := getattr(self, f.name)) is not None})

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))


@dataclass(frozen=True)
class Rollout(_Rows):
    """Sampled responses.

    Attributes:
        prompts: int64 [B, P], left-padded.
        prompt_mask: bool [B, P].
        responses: int64 [B, T], right-padded; EOS included where the policy produced it.
        response_mask: bool [B, T], True on tokens the policy produced. In a dialogue it has gaps, the environment's turns.
        logprobs: float32 [B, T], log-probability of each token under the sampling policy at the sampling temperature; 0 where masked.
        environment_mask: bool [B, T], True on tokens inside a dialogue that the environment wrote: read by every model, part of no loss;
            None where there are none.
        sampled_logprobs: float32 [B, T], what the engine that sampled gives in place of `logprobs`; None where it gives these.
    """

    prompts: Tensor
    prompt_mask: Tensor
    responses: Tensor
    response_mask: Tensor
    logprobs: Tensor
    environment_mask: Tensor | None = None
    sampled_logprobs: Tensor | None = None

    @property
    def input_ids(self) -> Tensor:
        """int64 [B, P + T]."""
        return torch.cat([self.prompts, self.responses], dim=1)

    @property
    def attention_mask(self) -> Tensor:
        """bool [B, P + T]: prompt, and whatever policy or environment wrote after it."""
        return torch.cat([self.prompt_mask, self.written], dim=1)

    @property
    def written(self) -> Tensor:
        """bool [B, T], the tokens of a response that are no padding."""
        return self.response_mask if self.environment_mask is None else self.response_mask | self.environment_mask

    def micro_batches(self, size: int) -> tuple[Tensor, ...]:
        """The rows' places, int64, in lots of at most `size`, shortest texts first: neighbours in this order need little padding."""
        return self.attention_mask.sum(1).argsort(stable=True).split(size) if len(self) else ()

    def trim(self):
        """The same rows without the columns that are padding in all of them: less work, same numbers."""
        longest_prompt = int(self.prompt_mask.sum(1).max())
        longest_response = max(int(self.written.sum(1).max()), 1)
        cut = {"prompts": self.prompts[:, -longest_prompt:], "prompt_mask": self.prompt_mask[:, -longest_prompt:]}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in cut and value is not None and value.ndim > 1:
                cut[f.name] = value[:, :longest_response]
        return replace(self, **cut)

    @classmethod
    def empty(cls) -> Rollout:
        """No rows."""
        ids, mask = torch.zeros(0, 0, dtype=torch.long), torch.zeros(0, 0, dtype=torch.bool)
        return cls(ids, mask, ids, mask, torch.zeros(0, 0))

    @classmethod
    def concatenate(cls, parts: Sequence[Rollout]) -> Rollout:
        """The rows of several rollouts in one, padded to the longest prompt and response."""
        parts = [part for part in parts if len(part)] or parts[:1]
        prompt_width = max(part.prompts.shape[1] for part in parts)
        width = max(part.responses.shape[1] for part in parts)

        def joined(name: str) -> Tensor:
            left = name in ("prompts", "prompt_mask")
            tensors = [getattr(part, name) for part in parts]
            missing = [(prompt_width if left else width) - tensor.shape[1] for tensor in tensors]
            return torch.cat([F.pad(tensor, (gap, 0) if left else (0, gap)) for tensor, gap in zip(tensors, missing, strict=True)])

        return cls(**{f.name: joined(f.name) for f in fields(cls) if getattr(parts[0], f.name) is not None})

    @property
    def lengths(self) -> Tensor:
        """int64 [B], response tokens that the policy wrote."""
        return self.response_mask.sum(1)


@dataclass(frozen=True)
class Experience(Rollout):
    """A scored rollout: what the losses need. Masked positions hold zeros.

    Attributes:
        rewards: float32 [B, T], observed reward on the last response token (plus token-level KL penalties if asked for).
        scored: bool [B], False where the reward could not be computed; such rows never enter a loss.
        reference_logprobs: float32 [B, T] under the frozen SFT model, or None where nothing asks for it.
        values: float32 [B, T], V(s_t) when the rollout was made, or None without a critic.
        advantages, returns: float32 [B, T]; `returns` are the critic's targets.
        critic_inputs: float32 [B, T, F], what the value head sees beside the states, or None.
        latent_noise: float32 [B, T, depth, Z], standard normal draws for the critic's latents, or None (the latents' means are used).
    """

    rewards: Tensor | None = None
    scored: Tensor | None = None
    reference_logprobs: Tensor | None = None
    values: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    critic_inputs: Tensor | None = None
    latent_noise: Tensor | None = None

    def blank_padding(self) -> Experience:
        """The same batch with zeros in every masked float: not even the gradient of NaN x 0 gets out of padding."""
        floats = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None and v.is_floating_point()}
        mask = self.response_mask
        return replace(self, **{name: torch.where(mask.view(*mask.shape, *[1] * (v.ndim - 2)), v, 0.0) for name, v in floats.items()})
