"""Choose the task that `params.domain` and `params.prepare.dataset` name."""

from __future__ import annotations

from typing import Any

from vrpo.errors import UserError
from vrpo.tasks.base import Task


def load_task(params: Any, tokenizer: Any = None) -> Task:
    """The task of a run. Only `prompt` needs the tokenizer, and only for tasks that use its chat template."""
    if params.prepare.dataset == "procedural":
        from vrpo.tasks.procedural import procedural_task

        return procedural_task(params, tokenizer)
    return text_task(params.domain, tokenizer)


def text_task(domain: str, tokenizer: Any = None) -> Task:
    """The task of a domain on real text: data sets and benchmarks."""
    if domain == "math":
        from vrpo.tasks.math.task import MathTask

        return MathTask(tokenizer)
    if domain == "science":
        from vrpo.tasks.science.task import ScienceTask

        return ScienceTask(tokenizer)
    raise UserError(f"domain = {domain!r}: has no questions with one answer; use math or science, or prepare.dataset = procedural")
