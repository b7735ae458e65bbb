"""Scenarios: what a simulated user wants, how it says it, and what the service answers. One is a problem of the dialogue domain."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from typing import Any

from vrpo.tasks.dialogue.metrics import Goal
from vrpo.tasks.dialogue.services import INTENTS, RESULTS, SERVICES, SURFACE_RATE, SURFACES, VALUES

CORRECTION_RATE, CHANGE_RATE, TERSE_RATE, VOLUNTEER_RATE = 0.3, 0.3, 0.25, 0.5
KINDS = (("lookup",), ("transaction",), ("lookup", "transaction"))
KIND_WEIGHTS = (0.2, 0.5, 0.3)


def new_scenario(rng: random.Random) -> dict[str, Any]:
    """Draw a dialogue's goals, the user's ways and the service's answers, as JSON.

    Per goal: `slots` slot -> canonical value that must be called in the end; `volunteers`, slots told unasked; `words` slot -> surface of
    its final value; `first` slot -> surface of what the user says first, and `mends` how it gets right: "at once" or "later" (a
    correction), "asked" (a change of mind when asked to confirm); `terse`; `requests` slots asked about afterwards; `results`.
    """
    service = SERVICES[rng.choice(list(SERVICES))]
    lookup, transaction = service.intents
    known: dict[str, str] = {}
    goals = []
    for kind in rng.choices(KINDS, KIND_WEIGHTS)[0]:
        name = lookup if kind == "lookup" else transaction
        intent = service.intents[name]
        slots = {slot: known.get(slot) or rng.choice(VALUES[slot]) for slot in intent.required}
        new = [slot for slot in intent.required if slot not in known]
        goal: dict[str, Any] = {
            "service": service.name,
            "intent": name,
            "slots": slots,
            "volunteers": [slot for slot in new if rng.random() < VOLUNTEER_RATE],
            "words": {slot: _word(rng, slot, value) for slot, value in slots.items()},
            "first": {},
            "mends": None,
            "terse": rng.random() < TERSE_RATE,
            "requests": rng.sample(intent.results, rng.choice((0, 1, 1, 2))),
            "results": {slot: rng.choice(RESULTS[slot]) for slot in intent.results},
        }
        ways = (["at once"] if not intent.transactional else ["at once", "later", "asked"]) if new else []
        if ways and rng.random() < CORRECTION_RATE + (CHANGE_RATE if intent.transactional else 0.0):
            slot = rng.choice(new)
            wrong = rng.choice([value for value in VALUES[slot] if value != slots[slot]])
            goal["first"], goal["mends"] = {slot: _word(rng, slot, wrong)}, rng.choice(ways)
        known |= slots
        goals.append(goal)
    return {"domain": service.domain, "goals": goals}


def _word(rng: random.Random, slot: str, value: str) -> str:
    """What the user says for a value."""
    return SURFACES[slot][value] if rng.random() < SURFACE_RATE else value


def dump_scenario(scenario: dict[str, Any]) -> str:
    """A scenario as one line of JSON, always the same for the same scenario."""
    return json.dumps(scenario, separators=(",", ":"), ensure_ascii=False)


@lru_cache(maxsize=1 << 15)
def load_scenario(text: str) -> dict[str, Any]:
    """The inverse of `dump_scenario`.

    Raises:
        ValueError: the text is no scenario.
    """
    scenario = json.loads(text)
    if not isinstance(scenario, dict) or not scenario.get("goals"):
        raise ValueError(f"not a dialogue scenario: {text[:60]!r}")
    for goal in scenario["goals"]:
        missing = {"service", "intent", "slots", "volunteers", "words", "requests", "results"} - set(goal)
        if missing or goal["intent"] not in INTENTS:
            raise ValueError(f"not a dialogue scenario: a goal lacks {', '.join(sorted(missing)) or 'a known intent'}")
    return scenario


def scored_goals(scenario: dict[str, Any]) -> list[Goal]:
    """What the dialogue is scored against; a corrupted label holds other slots in `scored` than the user's own."""
    goals = []
    for goal in scenario["goals"]:
        intent = INTENTS[goal["intent"]][1]
        requests = tuple((slot, (goal["results"][slot],)) for slot in goal["requests"])
        constraints = goal.get("scored") or goal["slots"]
        goals.append(Goal(goal["service"], goal["intent"], intent.transactional, intent.required, constraints, requests))
    return goals
