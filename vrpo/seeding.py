"""Randomness by key instead of by history: a number depends on what it is for, never on how often something was called.

That is what makes resume exact without saving generator states, and noise independent of batch sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Row = TypeVar("Row")


def derive_seed(*key: object) -> int:
    """A 63-bit seed that depends on `key` alone, e.g. `derive_seed(run_seed, iteration, "rollout")`."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    return derive_seed(*key) / 2**63


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by `key`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*key))


def stream(rows: Sequence[Row], start: int, count: int, *key: object) -> list[Row]:
    """Elements start ... start + count of an endless stream that visits every row once per epoch, each epoch in its own order."""
    import torch

    size, taken = len(rows), []
    for epoch in range(start // size, (start + count - 1) // size + 1):
        order = torch.randperm(size, generator=generator(*key, epoch)).tolist()
        taken += [rows[i] for i in order[max(start - epoch * size, 0) : start + count - epoch * size]]
    return taken
