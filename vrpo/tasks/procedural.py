"""Choose the task that makes the problems of `params.domain`, where `prepare.dataset` is "procedural"."""

from __future__ import annotations

from vrpo.config import Params, UserError
from vrpo.tasks.base import ProceduralTask


def procedural_task(params: Params) -> ProceduralTask:
    """The domain's own generator."""
    if params.domain == "math":
        from vrpo.tasks.chain import ChainTask

        return ChainTask(params.prepare.max_length, params.prepare.min_length)
    if params.domain == "science":
        from vrpo.tasks.physics import PhysicsTask

        return PhysicsTask()
    raise UserError(f"domain = {params.domain!r}: has no procedural problems yet; use math or science")
