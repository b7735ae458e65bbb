"""Find domains, which are the folders here, and make their tasks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from vrpo.errors import UserError
from vrpo.tasks.base import PROCEDURAL, Domain, Task

FOLDER = Path(__file__).parent


def domains() -> list[str]:
    """Names of the domains."""
    return sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))


def load_domain(name: str) -> Domain:
    """The domain in the folder of this name.

    Raises:
        UserError: the folder's __init__.py defines none.
    """
    domain = getattr(import_module(f"vrpo.tasks.{name}"), "DOMAIN", None)
    if not isinstance(domain, Domain):
        raise UserError(f"{FOLDER / name / '__init__.py'}: defines no DOMAIN; write DOMAIN = Domain(title=..., procedural=...)")
    return domain


def settings_file(name: str) -> Path:
    """Where a domain may keep its default settings: sections of the parameters, laid beneath `domains.<name>`."""
    return FOLDER / name / "settings.yaml"


def load_task(domain: Domain, settings: Mapping[str, Any], tokenizer: Any = None) -> Task:
    """A domain's task.

    Args:
        settings: `dataset`, which decides between its own problems and rows of data, and what else its tasks take (see `Domain`).
        tokenizer: the policy's; only prompts need it, and only of tasks that use its chat template.

    Raises:
        UserError: the domain has no such task, or it takes a setting that does not exist.
    """
    dataset = settings["dataset"]
    make = domain.procedural if dataset == PROCEDURAL else domain.on_rows
    if make is None:
        raise UserError(missing_task(domain, dataset))
    offered = {**settings, "tokenizer": tokenizer}
    taken = [parameter for parameter in inspect.signature(make).parameters.values() if parameter.kind not in _REST]
    if unknown := [parameter.name for parameter in taken if parameter.name not in offered and parameter.default is parameter.empty]:
        raise UserError(f"{make.__qualname__}({unknown[0]}): no such setting; give it a default, or use one of {', '.join(offered)}")
    return make(**{parameter.name: offered[parameter.name] for parameter in taken if parameter.name in offered})


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def missing_task(domain: Domain, dataset: str) -> str | None:
    """The message about a domain that has no task for `prepare.dataset`; None where it has."""
    if dataset == PROCEDURAL and domain.procedural is None:
        return f"prepare.dataset = {PROCEDURAL!r}: the domain of {domain.title} makes no problems; name a .jsonl file, a folder or a hub id"
    if dataset != PROCEDURAL and domain.on_rows is None:
        return f"prepare.dataset = {dataset!r}: the domain of {domain.title} has no questions with one answer; use {PROCEDURAL!r}, or another domain"
    return None
