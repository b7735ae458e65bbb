"""Choose the task that `params.domain` and `params.prepare.dataset` name."""

from __future__ import annotations

from typing import Any

from vrpo.config import Params, UserError
from vrpo.tasks.base import Task


def load_task(params: Params, tokenizer: Any = None) -> Task:
    """The task of a run. Only `prompt` needs the tokenizer, and only for tasks that use its chat template."""
    if params.prepare.dataset == "procedural":
        from vrpo.tasks.procedural import procedural_task

        return procedural_task(params, tokenizer)
    if params.domain == "math":
        from vrpo.tasks.math import MathTask

        return MathTask(tokenizer)
    raise UserError(f"domain = {params.domain!r}: reads no data sets yet; use prepare.dataset = procedural, or domain math")
