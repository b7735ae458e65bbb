"""Schema-Guided Dialogue (Rastogi et al. 2020): real dialogues and what their users wanted; `damage.py` has damaged replays of them.

Two sources give the same rows: `load_published` reads the folders of the data set as it is published (`dialogues_*.json` beside
`schema.json`); `load_rows` reads a JSONL file of rows with a file of schemas. A row holds `id`, `goals` (service, intent,
required_slots, parameters of the last call) and `turns` in the form of `metrics.py`; its human assistant is the reference.
"""

from __future__ import annotations

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


def slot_of(act: dict[str, Any]) -> tuple[str, str]:
    """Service and slot that an act is about; the slot is empty where it is about none."""
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
                    if following["speaker"] == "system" and act["act"] in ("INFORM", "OFFER") and slot_of(act) == slot_of(asked)
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
