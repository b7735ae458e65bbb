"""What is said to the user when something given is wrong."""

from __future__ import annotations

from typing import Any


class UserError(Exception):
    """A mistake in the user's input. The message names the thing and the cure; no traceback is shown."""


class OutOfReach(UserError):
    """The hub does not answer: a mistake in a name, or an outage that may be over in a minute."""


def shown(value: Any) -> str:
    """A value and its type as errors show them, on one line and 80 characters of it at most."""
    text = " ".join(repr(value).split())
    kind = "" if value is None or isinstance(value, str) else f" ({type(value).__name__})"
    return (text if len(text) <= 80 else text[:77] + "...") + kind
