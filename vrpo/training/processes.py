"""Several processes on one run (`accelerate launch`): each samples, scores and differentiates its share of the rows.

Every process holds the same models and optimisers and, after each step, the same experience; losses are divided by counts over the
whole optimiser batch, so summed gradients are those of a single process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import nn

T = TypeVar("T")


class Processes:
    """Shares, gathers and sums over the processes of a run; with one process each method returns what it was given.

    Args:
        device: where this run was asked to compute; with several processes on accelerators each gets a device of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self.state = PartialState(cpu=device.type == "cpu")
        self.count, self.index = self.state.num_processes, self.state.process_index
        self.is_main = self.state.is_main_process
        self.device = device if self.count == 1 else self.state.device

    def share(self, size: int) -> slice:
        """This process's rows of `size`; shares differ by one row at most."""
        bounds = [size * index // self.count for index in (self.index, self.index + 1)]
        return slice(*bounds)

    def gather(self, part: T) -> list[T]:
        """Every process's part, in the order of their shares."""
        return [part] if self.count == 1 else gather_object([part])

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up each gradient over the processes; one that has none contributes zeros."""
        if self.count == 1:
            return
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(gradient, "sum")

    def wait(self) -> None:
        """Until every process is here."""
        self.state.wait_for_everyone()
