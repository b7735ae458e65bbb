"""Trainer state on disk: one safetensors file, replaced atomically and checked by a digest, that refuses to continue another run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.errors import UserError
from vrpo.files import take_place

FORMAT = 2  # of checkpoints; raised when older ones cannot be read any more


def weights(model: nn.Module, frozen: bool = True) -> dict[str, Tensor]:
    """Parameters (frozen ones too, if asked for) and buffers by name; tied tensors appear once."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if frozen or parameter.requires_grad}
    return {**parameters, **dict(model.named_buffers())}


def pack(models: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Everything that training changes, as one flat dictionary of tensors."""
    tensors = {f"model/{name}": tensor for name, tensor in weights(models, frozen=False).items()}
    for name, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in entries.items()}
    return tensors


def layout(models: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """By the names of `pack`, tensors that lie in memory as what was packed is to lie: weights, and for each optimiser's states their weight."""
    tensors = {f"model/{name}": tensor for name, tensor in weights(models, frozen=False).items()}
    for name, optimizer in optimizers.items():
        for index, parameter in enumerate(optimizer.param_groups[0]["params"]):
            tensors |= {f"{name}/{index}/{key}": parameter for key in ("exp_avg", "exp_avg_sq")}
    return tensors


def unpack(tensors: dict[str, Tensor], models: nn.Module, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Put back in place what `pack` gave; the optimisers' settings stay those of the config.

    Raises:
        UserError: the tensors are not those of these models.
    """
    targets = {f"model/{name}": target for name, target in weights(models, frozen=False).items()}
    shapes, wanted = ({n: t.shape for n, t in group.items() if n.startswith("model/")} for group in (tensors, targets))
    if other := sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name)):
        raise UserError(f"the checkpoint holds other weights than the models here, e.g. {other[0].removeprefix('model/')}; delete it")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            owner, _, rest = path.partition("/")
            if owner == name:
                index, _, key = rest.partition("/")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents, in the order of the names."""
    total = sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and JSON-able `meta` into one file; a kill leaves the previous checkpoint whole.

    Raises:
        UserError: the file cannot be written (disk full, no permission).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = path.resolve()  # a link stays one
    partial = path.with_name(path.name + ".partial")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta | {"format": FORMAT})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(contiguous, partial, metadata={"meta": text, "digest": _seal(contiguous, text)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        take_place(partial, path)
    except (SafetensorError, OSError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written ({error}); free space and run again, the previous checkpoint is whole") from None


def load_checkpoint(path: Path, fingerprint: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint of the run described by `fingerprint`.

    Raises:
        UserError: the file is broken, was written by another version of this code, or by a run with another config, data or initial
            model; the first differences are named.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata()
            meta = json.loads(texts["meta"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        refuse_other_format(path, meta)
        if texts["digest"] != _seal(tensors, texts["meta"]):
            raise ValueError("its contents do not match its digest")
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise UserError(f"{path}: broken checkpoint ({error}); delete it to train from the start, or restore a copy") from None
    refuse_other_run(path, meta, fingerprint)
    return tensors, meta


def refuse_other_format(path: Path, meta: dict[str, Any]) -> None:
    """Stop at a checkpoint that another version of this code wrote (UserError)."""
    if (written := meta.get("format", 1)) != FORMAT:
        raise UserError(f"{path}: written by another version of this code (format {written}, here {FORMAT}); go on there, or delete it")


def refuse_other_run(path: Path, meta: dict[str, Any], fingerprint: dict[str, Any]) -> None:
    """Stop at the checkpoint of another run than `fingerprint` tells of (UserError), with the first differences."""
    if differences := list(_differences(meta["fingerprint"], fingerprint)):
        raise UserError(f"{path} belongs to another run: {'; '.join(differences[:3])}. Restore these, or delete it to start anew")


def _seal(tensors: dict[str, Tensor], text: str) -> str:
    return sha256((tensors_digest(tensors) + text).encode()).hexdigest()


def _differences(saved: Any, current: Any, where: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted({*saved, *current}):
            yield from _differences(saved.get(key), current.get(key), f"{where}.{key}" if where else key)
    elif saved != current:
        yield f"{where} was {saved!r}, now {current!r}"
