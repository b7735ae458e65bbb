"""Damaged replays of real dialogues (`sgd.py`): each function returns new turns of a row, and breaks one thing that a metric must notice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from vrpo.tasks.dialogue.metrics import Turn
from vrpo.tasks.dialogue.sgd import Row, Schema, slot_of, surface_table


def drop_parameter(row: Row) -> list[Turn]:
    """The last call of the first goal loses one constraint."""
    return _change_last_call(row, lambda call, slot: call["parameters"].pop(slot))


def wrong_value(row: Row) -> list[Turn]:
    """The last call of the first goal holds another value in one slot."""
    return _change_last_call(row, lambda call, slot: call["parameters"].update({slot: "nothing like it"}))


def extra_booking(row: Row, schema: Schema) -> list[Turn]:
    """In the last turn the assistant books something that nobody asked for."""
    turns = copy.deepcopy(row["turns"])
    wanted = {(goal["service"], goal["intent"]) for goal in row["goals"]}
    service, intent = next(
        (name, intent)
        for name, service in schema.items()
        for intent, found in service["intents"].items()
        if found["is_transactional"] and (name, intent) not in wanted
    )
    last = next(turn for turn in reversed(turns) if turn["speaker"] == "system")
    last["calls"] = [*(last.get("calls") or []), {"service": service, "method": intent, "parameters": {}, "n_results": 1}]
    return turns


def unasked_slot(row: Row) -> list[Turn]:
    """The assistant never asks for one slot that it needed, and so is never told; its call holds the value all the same."""
    turns = copy.deepcopy(row["turns"])
    found = _first_needed_request(row)
    if found is not None:
        service, slot = found
        for turn in turns:
            turn["acts"] = [
                act
                for act in turn["acts"]
                if (act["service"], act.get("slot")) != found or act["act"] not in ("REQUEST", "INFORM", "CONFIRM", "OFFER")
            ]
            for name, frame in (turn.get("state") or {}).items():
                if name == service:
                    frame["slots"].pop(slot, None)
    return turns


def repeated_question(row: Row) -> list[Turn]:
    """In its last turn the assistant asks for a slot that the user has told."""
    turns = copy.deepcopy(row["turns"])
    told = next(
        (act for turn in turns if turn["speaker"] == "user" for act in turn["acts"] if act["act"] == "INFORM" and act.get("slot")), None
    )
    if told is not None:
        last = next(turn for turn in reversed(turns) if turn["speaker"] == "system")
        last["acts"] = [*last["acts"], {"service": told["service"], "act": "REQUEST", "slot": told["slot"]}]
    return turns


def wrong_answer(row: Row) -> list[Turn]:
    """The first information request gets a wrong answer."""
    turns = copy.deepcopy(row["turns"])
    for place, turn in enumerate(turns):
        for asked in turn["acts"]:
            if turn["speaker"] == "user" and asked["act"] == "REQUEST":
                for following in turns[place + 1 :]:
                    for act in following["acts"]:
                        if following["speaker"] == "system" and act["act"] in ("INFORM", "OFFER") and slot_of(act) == slot_of(asked):
                            act["values"] = ["nothing like it"]
                            return turns
    return turns


def surface_forms(row: Row) -> list[Turn]:
    """Calls hold what the user said instead of canonical values, where that is known: no mistake, and no metric may change."""
    turns = copy.deepcopy(row["turns"])
    said: dict[tuple[str, str], list[str]] = {}
    same = surface_table(row)
    for turn in turns:
        for service, frame in (turn.get("state") or {}).items():
            said |= {(service, slot): surfaces for slot, surfaces in frame["slots"].items()}
        for call in turn.get("calls") or []:
            for slot, value in call["parameters"].items():
                forms = [
                    form
                    for form in said.get((call["service"], slot), [])
                    if same(call["service"], slot, form) == same(call["service"], slot, value)
                ]
                call["parameters"][slot] = forms[0] if forms else value
    return turns


def _change_last_call(row: Row, change: Callable[[dict[str, Any], str], Any]) -> list[Turn]:
    turns, goal = copy.deepcopy(row["turns"]), next((goal for goal in row["goals"] if goal["parameters"]), None)
    if goal is not None:
        calls = [
            call
            for turn in turns
            for call in turn.get("calls") or []
            if (call["service"], call["method"]) == (goal["service"], goal["intent"])
        ]
        change(calls[-1], sorted(goal["parameters"])[0])
    return turns


def _first_needed_request(row: Row) -> tuple[str, str] | None:
    """The first slot that the human assistant asked for before anything told it, and that a goal requires."""
    required = {(goal["service"], slot) for goal in row["goals"] for slot in goal["required_slots"]}
    known: set[tuple[str, str]] = set()
    for turn in row["turns"]:
        for act in turn["acts"]:
            key = slot_of(act)
            if turn["speaker"] == "system" and act["act"] == "REQUEST" and key in required - known:
                return key
            if act["act"] in ("INFORM", "OFFER", "CONFIRM"):
                known.add(key)
        known |= {(service, slot) for service, frame in (turn.get("state") or {}).items() for slot in frame["slots"]}
    return None
