"""Trainer state on disk: one safetensors file, replaced atomically, that refuses to continue another run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.config import UserError


def model_tensors(model: nn.Module, frozen: bool = True) -> dict[str, Tensor]:
    """Parameters (frozen ones too, if asked for) and buffers by name; tied tensors appear once."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if frozen or parameter.requires_grad}
    return {**parameters, **dict(model.named_buffers())}


def pack(models: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Everything that training changes, as one flat dictionary of tensors."""
    tensors = {f"model/{name}": tensor for name, tensor in model_tensors(models, frozen=False).items()}
    for name, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in entries.items()}
    return tensors


def unpack(tensors: dict[str, Tensor], models: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Put back in place what `pack` gave; the optimisers' settings stay those of the config."""
    with torch.no_grad():
        for name, target in model_tensors(models, frozen=False).items():
            target.copy_(tensors[f"model/{name}"])
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            owner, _, rest = path.partition("/")
            if owner == name:
                index, _, key = rest.partition("/")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def weights_digest(model: nn.Module) -> str:
    """A short hash of a model's weights."""
    digest = sha256()
    for name, tensor in sorted(model_tensors(model).items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON-able `meta` into one file; a kill leaves the previous checkpoint whole."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(contiguous, partial, metadata={"meta": json.dumps(meta)})
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error}); free space and run again, the previous checkpoint is whole") from None
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path, fingerprint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint of the run described by `fingerprint`.

    Raises:
        UserError: the file is broken, or was written by a run with another config, data or initial model; the first
            differences are named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["meta"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path}: broken checkpoint ({error}); delete it to train from the start") from None
    differences = list(_differences(meta["fingerprint"], fingerprint))
    if differences:
        raise UserError(f"{path} belongs to another run: {'; '.join(differences[:3])}. Restore these, or delete the file to start anew")
    return tensors, meta


def _differences(saved: Any, current: Any, where: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted({*saved, *current}):
            yield from _differences(saved.get(key), current.get(key), f"{where}.{key}" if where else key)
    elif saved != current:
        yield f"{where} was {saved!r}, now {current!r}"
