"""Choose the task that makes the problems of `params.domain`, where `prepare.dataset` is "procedural"."""

from __future__ import annotations

from typing import Any

from vrpo.tasks.base import ProceduralTask


def procedural_task(params: Any, tokenizer: Any = None) -> ProceduralTask:
    """The domain's own generator. `tokenizer`, of the policy, is for tasks that speak through its chat template."""
    if params.domain == "math":
        from vrpo.tasks.math.chain import ChainTask

        return ChainTask(params.prepare.max_length, params.prepare.min_length)
    if params.domain == "science":
        from vrpo.tasks.science.physics import PhysicsTask

        return PhysicsTask()
    from vrpo.tasks.dialogue.task import DialogueTask

    return DialogueTask(tokenizer, params.generation.max_turns, params.prepare.wording == "english")
