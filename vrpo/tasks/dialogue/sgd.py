"""Schema-Guided Dialogue (Rastogi et al. 2020): real dialogues, what their users wanted, and damaged replays of them.

Two sources give the same rows: `load_published` reads the folders of the data set as it is published (`dialogues_*.json` beside
`schema.json`); `load_rows` reads a JSONL file of rows with a file of schemas. A row holds `id`, `goals` (service, intent,
required_slots, parameters of the last call) and `turns` in the form of `metrics.py`; its human assistant is the reference.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vrpo.errors import UserError
from vrpo.tasks.dialogue.metrics import DialogueScore, Goal, Turn, same_spelling, score_dialogue

Row = dict[str, Any]
Schema = dict[str, dict[str, Any]]  # service -> {"slots", "intents": {name: {"is_transactional", "required_slots", "optional_slots"}}}


def load_rows(path: str | Path, schema: str | Path) -> tuple[list[Row], Schema]:
    """Rows of a JSONL file and the services of a schema file.

    Raises:
        UserError: a file is missing or malformed (file and line are named).
    """
    rows = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if line.strip():
            row = _parse(line, f"{path}:{number}")
            missing = {"id", "goals", "turns"} - set(row if isinstance(row, dict) else ())
            if missing:
                raise UserError(f"{path}:{number}: not a dialogue: {', '.join(sorted(missing))} missing")
            rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no dialogues")
    services = {service["service"]: service for service in _parse(_read(schema), str(schema))["services"]}
    unknown = {goal["service"] for row in rows for goal in row["goals"]} - set(services)
    if unknown:
        raise UserError(f"{schema}: lacks the services {', '.join(sorted(unknown))} of {path}")
    return rows, services


def load_published(folder: str | Path) -> tuple[list[Row], Schema]:
    """One split of the published data set: a folder with `schema.json` and `dialogues_*.json`.

    Raises:
        UserError: the folder lacks them, or a file is malformed.
    """
    folder = Path(folder)
    files = sorted(folder.glob("dialogues_*.json"))
    if not files or not (folder / "schema.json").is_file():
        raise UserError(f"{folder}: not a split of Schema-Guided Dialogue: schema.json or dialogues_*.json is missing")
    schema = {
        service["service_name"]: {
            "service": service["service_name"],
            "slots": {slot["name"]: slot for slot in service["slots"]},
            "intents": {intent["name"]: intent for intent in service["intents"]},
        }
        for service in _parse(_read(folder / "schema.json"), str(folder / "schema.json"))
    }
    return [_from_published(dialogue, schema) for file in files for dialogue in _parse(_read(file), str(file))], schema


def reference_goals(row: Row, schema: Schema) -> list[Goal]:
    """A real dialogue's goals: constraints are the parameters of its last calls, right answers those of the human assistant.

    A booking that the human assistant made twice was wanted twice; what the service could not do was not asked rightly or wrongly.
    """
    goals = []
    for goal in row["goals"]:
        service, intent = goal["service"], schema[goal["service"]]["intents"][goal["intent"]]
        calls = [
            call
            for turn in row["turns"]
            for call in turn.get("calls") or []
            if (call["service"], call["method"]) == (service, goal["intent"])
        ]
        goals.append(
            Goal(
                service,
                goal["intent"],
                intent["is_transactional"],
                tuple(goal["required_slots"]),
                dict(goal["parameters"]),
                defaults=tuple(intent["optional_slots"].items()),
                bookings=max(1, sum(bool(call["n_results"]) for call in calls)),
            )
        )
    return _with_requests(goals, row["turns"])


def score_row(
    row: Row,
    schema: Schema,
    turns: Sequence[Turn] | None = None,
    same: Callable[[str, str, str], str] | None = None,
    budget: int | None = None,
) -> DialogueScore:
    """Score `turns` (by default the human's own) against a row's reference goals."""
    return score_dialogue(
        reference_goals(row, schema),
        row["turns"] if turns is None else turns,
        transactional=lambda service, intent: schema[service]["intents"][intent]["is_transactional"],
        budget=budget,
        same=same or surface_table(row),
    )


def surface_table(row: Row) -> Callable[[str, str, str], str]:
    """Canonical forms for one dialogue: what its user says for a value (the state's spellings) means what its acts say it means."""
    table: dict[tuple[str, str, str], str] = {}
    for turn in row["turns"]:
        meant = {
            (act["service"], act.get("slot")): act["values"][0] for act in turn["acts"] if act["act"] == "INFORM" and act.get("values")
        }
        for service, frame in (turn.get("state") or {}).items():
            for slot, surfaces in frame["slots"].items():
                if (service, slot) in meant:
                    for surface in surfaces:
                        table.setdefault((service, slot, same_spelling(service, slot, surface)), meant[(service, slot)])

    def same(service: str, slot: str, value: str) -> str:
        plain = same_spelling(service, slot, value)
        return same_spelling(service, slot, table.get((service, slot, plain), value))

    return same


# -- damaged replays: each returns new turns, and breaks one thing


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
                        if following["speaker"] == "system" and act["act"] in ("INFORM", "OFFER") and _key(act) == _key(asked):
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
            key = _key(act)
            if turn["speaker"] == "system" and act["act"] == "REQUEST" and key in required - known:
                return key
            if act["act"] in ("INFORM", "OFFER", "CONFIRM"):
                known.add(key)
        known |= {(service, slot) for service, frame in (turn.get("state") or {}).items() for slot in frame["slots"]}
    return None


def _key(act: dict[str, Any]) -> tuple[str, str]:
    return act["service"], act.get("slot", "")


def _with_requests(goals: list[Goal], turns: Sequence[Turn]) -> list[Goal]:
    """Give each information request that the human assistant answered to the first goal of its service."""
    requests: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for place, turn in enumerate(turns):
        for asked in turn["acts"]:
            if turn["speaker"] != "user" or asked["act"] != "REQUEST":
                continue
            answer = next(
                (
                    tuple(act.get("values") or ())
                    for following in turns[place + 1 :]
                    for act in following["acts"]
                    if following["speaker"] == "system" and act["act"] in ("INFORM", "OFFER") and _key(act) == _key(asked)
                ),
                None,
            )
            if answer is not None:
                requests.setdefault(asked["service"], []).append((asked["slot"], answer))
    given = []
    for goal in goals:
        given.append(Goal(**{**vars(goal), "requests": tuple(requests.pop(goal.service, ()))}))
    return given


def _from_published(dialogue: dict[str, Any], schema: Schema) -> Row:
    turns = []
    for raw in dialogue["turns"]:
        turn: Turn = {"speaker": raw["speaker"].lower(), "utterance": raw["utterance"], "acts": []}
        calls, state = [], {}
        for frame in raw["frames"]:
            service = frame["service"]
            for action in frame["actions"]:
                act = {"service": service, "act": action["act"]}
                if action.get("slot"):
                    act["slot"] = action["slot"]
                if values := action.get("canonical_values") or action.get("values"):
                    act["values"] = list(values)
                turn["acts"].append(act)
            if call := frame.get("service_call"):
                results = frame.get("service_results") or []
                calls.append({"service": service, **call, "n_results": len(results)})
            if found := frame.get("state"):
                state[service] = {"intent": found["active_intent"], "slots": found["slot_values"], "requested": found["requested_slots"]}
        turns.append(turn | ({"calls": calls} if calls else {}) | ({"state": state} if state else {}))
    last: dict[tuple[str, str], dict[str, str]] = {}
    for turn in turns:
        for call in turn.get("calls", []):
            last[(call["service"], call["method"])] = call["parameters"]
    goals = [
        {
            "service": service,
            "intent": intent,
            "required_slots": schema[service]["intents"][intent]["required_slots"],
            "parameters": parameters,
        }
        for (service, intent), parameters in last.items()
    ]
    return {"id": dialogue["dialogue_id"], "services": dialogue["services"], "goals": goals, "turns": turns}


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{place}: not valid JSON ({error})") from None
