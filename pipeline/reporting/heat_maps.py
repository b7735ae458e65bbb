"""Colours for what `tokens.py` read: strips of tokens in the report and the notebooks."""

from __future__ import annotations

from typing import Any

STRIPS = {  # each list of numbers: its name for people, its colour, whether it goes both ways from 0
    "values": ("value", (0, 114, 178), False),
    "advantages_clean": ("advantage, clean reward", (0, 114, 178), True),
    "advantages_observed": ("advantage, observed reward", (0, 114, 178), True),
    "entropy": ("entropy", (130, 90, 160), False),
    "surprisal": ("surprisal", (130, 90, 160), False),
}
NEGATIVE = (213, 94, 0)


def heat_map(response: dict[str, Any], scales: dict[str, float]) -> dict[str, Any]:
    """A response as strips of coloured tokens; `scales` is the number that gets the full colour, by strip (see `scales_of`)."""
    strips = []
    for name, (label, color, signed) in STRIPS.items():
        if name in response:
            cells = [
                {"token": token.replace("\n", "↵"), "number": f"{value:.3f}", "color": shade(value / scales[name], color, signed)}
                for token, value in zip(response["tokens"], response[name], strict=True)
            ]
            strips.append({"label": label, "cells": cells})
    return {"prompt": response["prompt"], "kind": response["kind"], "strips": strips}


def scales_of(responses: list[dict[str, Any]]) -> dict[str, float]:
    """The largest size of each strip's numbers, so that colours compare between responses; 1 for values, which are success rates."""
    largest = {name: [abs(value) for response in responses for value in response.get(name, [])] for name in STRIPS}
    advantages = max(largest["advantages_clean"] + largest["advantages_observed"], default=1.0) or 1.0
    scales = {name: max(values, default=1.0) or 1.0 for name, values in largest.items()}
    return scales | {"values": 1.0, "advantages_clean": advantages, "advantages_observed": advantages}


def shade(share: float, color: tuple[int, int, int], signed: bool) -> str:
    """White at 0, the colour at 1, and where `signed` orange at -1; kept light enough for dark text."""
    strength = 0.75 * min(abs(share), 1.0) if signed or share > 0 else 0.0
    tone = NEGATIVE if signed and share < 0 else color
    return "#" + "".join(f"{round(255 + (channel - 255) * strength):02x}" for channel in tone)
