"""Trainer state in a folder that several processes write together, each its shards: safetensors files by torch's distributed checkpoints, read
back by any number of processes, and beside them what is no tensor, with a digest of every file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrpo.errors import UserError
from vrpo.files import partial_folder, whole_folder
from vrpo.training.checkpoint import FORMAT, refuse_other_format, refuse_other_run
from vrpo.training.processes import Processes

META = "meta.json"


def save_shards(folder: Path, tensors: dict[str, Tensor], meta: dict[str, Any], processes: Processes) -> None:
    """Write tensors, of which sharded ones are written by whoever holds a shard, and JSON-able `meta`. All processes call it; a kill leaves the
    previous checkpoint whole.

    Raises:
        UserError: the folder cannot be written (disk full, no permission).
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with _written_together(folder, processes) as partial:
            dcp.save(dict(tensors), storage_writer=dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True))
            digests = processes.gather({file.name: _digest(file) for file in partial.glob(f"shard-{processes.index + 1:05d}-*")})
            if processes.is_main:
                text = json.dumps(meta | {"format": FORMAT})
                files = {name: digest for part in digests for name, digest in part.items()}
                content = {"meta": text, "files": files, "digest": _seal(text, files)}
                (partial / META).write_text(json.dumps(content), encoding="utf-8")
    except (CheckpointException, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{folder} could not be written ({reason}); free space and run again, the previous checkpoint is whole") from None


def load_shards(
    folder: Path, fingerprint: dict[str, Any], like: dict[str, Tensor], processes: Processes | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_shards` wrote, in any number of processes.

    Args:
        fingerprint: of the run (see `load_checkpoint`).
        like: tensors by name that show how those of the same name are to be laid out; others come whole.
        processes: who reads together, each its shards; None: this process reads everything for itself.

    Raises:
        UserError: as `load_checkpoint`.
    """
    import torch.distributed.checkpoint as dcp

    try:
        content = json.loads((folder / META).read_text(encoding="utf-8"))
        text, files = content["meta"], content["files"]
        if content["digest"] != _seal(text, files):
            raise ValueError(f"{META} does not match its digest")
        names = sorted(files)
        mine = names if processes is None else names[processes.share(len(names))]
        spoilt = [name for name in mine if not (folder / name).is_file() or _digest(folder / name) != files[name]]
        if spoilt := spoilt if processes is None else [name for part in processes.gather(spoilt) for name in part]:
            raise ValueError(f"{spoilt[0]} does not match its digest")
        meta = json.loads(text)
        refuse_other_format(folder, meta)
        refuse_other_run(folder, meta, fingerprint)
        reader = dcp.HuggingFaceStorageReader(str(folder))
        tensors = {
            name: torch.empty_like(like[name], dtype=found.properties.dtype, requires_grad=False)
            if name in like and like[name].shape == found.size
            else torch.empty(found.size, dtype=found.properties.dtype)
            for name, found in reader.read_metadata().state_dict_metadata.items()
        }
        dcp.load(tensors, storage_reader=reader, no_dist=processes is None)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise UserError(f"{folder}: broken checkpoint ({error}); delete it to train from the start, or restore a copy") from None
    return tensors, meta


@contextmanager
def _written_together(folder: Path, processes: Processes) -> Iterator[Path]:
    """`whole_folder` for all processes: made and put in place by the main one."""
    with whole_folder(folder) if processes.is_main else nullcontext(partial_folder(folder)) as partial:
        processes.wait()  # for the folder
        yield partial
        processes.wait()  # for its files
    processes.wait()  # for its place


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _seal(text: str, files: dict[str, str]) -> str:
    return sha256(json.dumps([text, files], sort_keys=True).encode()).hexdigest()
