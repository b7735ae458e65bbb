"""The domain and the task that parameters name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import own_code
from pipeline.params import Params
from vrpo.errors import UserError
from vrpo.tasks import loader
from vrpo.tasks.base import PROCEDURAL, Domain, Task


def domain_of(params: Params) -> Domain:
    """The domain: one of the folders in `vrpo/tasks`, or one of the user's own file.

    Raises:
        UserError: the file fails, names no `Domain`, or other parameters do not go with it.
    """
    if not own_code.is_spec(params.domain):
        return loader.load_domain(params.domain)
    with own_code.naming("domain", params.domain):
        domain = own_code.load(params.domain, Path())
        if not isinstance(domain, Domain):
            raise UserError(f"is {domain!r:.60}, no vrpo.tasks.base.Domain; write NAME = Domain(title=..., procedural=...)")
    try:
        params.fit(domain)
    except ValueError as error:
        raise UserError(str(error)) from None
    return domain


def load_oracle(params: Params, tokenizer: Any) -> Any:
    """Success chances of the states of the task's responses (see `vrpo.algorithms.oracle`); None where nobody knows them."""
    oracle = domain_of(params).oracle
    return oracle(tokenizer) if oracle and params.prepare.dataset == PROCEDURAL else None


def load_task(params: Params, tokenizer: Any = None) -> Task:
    """The task of a run. Only `prompt` needs the tokenizer, and only for tasks that use its chat template."""
    settings = params.prepare.model_dump()
    settings |= {"max_turns": params.generation.max_turns, "hesitation_rate": params.base.hesitation_rate}
    settings |= {"misread_rate": params.base.misread_rate or 0.0}
    return loader.load_task(domain_of(params), settings, tokenizer)
