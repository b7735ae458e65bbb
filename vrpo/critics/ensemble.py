"""A value head with several decoders on the same states, for critics whose members are to differ."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vrpo.critics.value_model import ValueHead


class SideBySide(nn.ModuleList):
    """Modules that read the same input; their outputs [..., K] stand one after the other, [..., members * K]."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([member(z) for member in self], dim=-1)


class EnsembleHead(ValueHead):
    """The value is the mean of all members' outputs.

    Every decoder draws its own first layer. Since last layers start at zero, all members say 0.5 at first and part as they learn.

    Args:
        outputs: K of each member; `ValueOutput.outputs` is [B, T, members * K], one member after the other.
        members: decoders.
    """

    def __init__(self, hidden_size: int, depth: int, latent_size: int, inputs: int = 0, outputs: int = 1, members: int = 2) -> None:
        sizes = (hidden_size, depth, latent_size, inputs, outputs)
        super().__init__(*sizes)
        self.decoder = SideBySide([self.decoder, *(ValueHead(*sizes).decoder for _ in range(members - 1))])

    def value(self, outputs: Tensor) -> Tensor:
        return outputs.mean(-1)
