"""Choose the task that `params.task` names."""

from __future__ import annotations

from typing import Any

from vrpo.config import Params
from vrpo.tasks.base import Task


def load_task(params: Params, tokenizer: Any = None) -> Task:
    """The task of a run. Only `prompt` needs the tokenizer, and only for tasks that use its chat template."""
    if params.task == "chain":
        from vrpo.tasks.chain import ChainTask

        return ChainTask(params.prepare.max_length)
    from vrpo.tasks.math import MathTask

    return MathTask(tokenizer)
