"""A scripted assistant: perfect, or with slips. Its perfect dialogues are demonstrations, those with slips the base model's corpus.

It asks for what is missing, confirms before a transactional call, calls, and answers. It reads the user's annotated acts, so what it
knows is what the user said.
"""

from __future__ import annotations

import random
from typing import Any

from vrpo.tasks.dialogue.services import INTENTS, RESULTS, VALUES
from vrpo.tasks.dialogue.simulator import Dialogue, play


def act(dialogue: Dialogue, rng: random.Random | None = None, slip_rate: float = 0.0) -> str:
    """The assistant's next line.

    With `slip_rate`, at each decision: it calls although something is missing, or skips the confirmation, or books where
    only a lookup was wanted, or asks for what it knows; and each value it says in a call or an answer is replaced by another.
    """

    def slips() -> bool:
        return rng is not None and rng.random() < slip_rate

    known, confirmed, open_requests, results = _memory(dialogue)
    name = dialogue.goal["intent"]
    service, intent = INTENTS[name]
    if open_requests:
        said = [_value(slot, results[slot], RESULTS[slot], slips(), rng) for slot in open_requests]
        return " ".join(["tell", *said])
    missing = [slot for slot in intent.required if slot not in known]
    if missing and not slips():
        return " ".join(["ask", *missing])
    if not missing and not confirmed and slips():
        return f"ask {rng.choice(intent.required)}"  # a re-ask
    if intent.transactional and not confirmed and not missing and not slips():
        return " ".join(["confirm", *(f"{slot}={known[slot]}" for slot in intent.required)])
    if not intent.transactional and not missing and slips():
        name = next(other for other, found in service.intents.items() if found.transactional)
        intent = INTENTS[name][1]
    values = []
    for slot in intent.required:
        guess = slot not in known or slips()
        values.append(_value(slot, known.get(slot, ""), VALUES[slot], guess, rng or random.Random(0)))
    return " ".join(["call", name, *values])


def converse_script(scenario: dict[str, Any], max_turns: int, rng: random.Random | None = None, slip_rate: float = 0.0) -> list[str]:
    """The assistant's lines in one dialogue (see `act`), at most `max_turns`."""
    dialogue = play(scenario, [])
    lines: list[str] = []
    while not dialogue.over and len(lines) < max_turns:
        lines.append(act(dialogue, rng, slip_rate))
        dialogue.step(lines[-1])
    return lines


def _value(slot: str, right: str, values: tuple[str, ...], wrong: bool, rng: random.Random | None) -> str:
    return f"{slot}={rng.choice([value for value in values if value != right]) if wrong else right}"


def _memory(dialogue: Dialogue) -> tuple[dict[str, str], bool, list[str], dict[str, str]]:
    """Values known for the goal at hand, whether they were confirmed or mended at a confirmation, what the user asked last, and the answers."""
    known: dict[str, str] = {}
    confirmed = False
    for turn in dialogue.turns:
        for found in turn["acts"]:
            if turn["speaker"] == "user" and found["act"] == "INFORM":
                known[found["slot"]] = found["values"][0]
            if turn["speaker"] == "user" and found["act"] in ("AFFIRM", "NEGATE"):
                confirmed = True
            if turn["speaker"] == "user" and found["act"] == "INFORM_INTENT":
                confirmed = False
    asked = [found["slot"] for found in dialogue.turns[-1]["acts"] if found["act"] == "REQUEST"]
    return known, confirmed, asked, dialogue.goal["results"]
