"""Did the dialogue reach its goals? Pure functions over annotated dialogues, simulated or real.

A dialogue is a list of turns in the form of Schema-Guided Dialogue: `{"speaker": "user" | "system", "acts": [{"service", "act",
"slot", "values"}], "calls": [{"service", "method", "parameters", "n_results"}], "state": {service: {"slots": {...}}}}`, the last two
where there are any. A sub-goal g is (service, intent, required slots, constraints slot -> canonical value, information requests).

ok_call(g)  within the turn budget, the last call of (service, intent) has every constraint canonically equal, and no parameter that
            contradicts the goal: one the goal does not constrain must hold its default or "dontcare".
TCR         task completion: share of dialogues in which every g is ok_call and no unintended transactional call was made, that is one
            that no goal asks for, or a further success beyond the bookings that its goal wants.
ACR         ask completion: sum |asked and needed| / sum |needed|. A required slot is needed if nothing told it before the first call of
            its intent: the user did not volunteer it, the system neither offered it nor proposed a default, no earlier goal of the
            service or other part of the dialogue carried it over. It is asked if the system requested it while it was unknown.
            Undefined (None) where nothing was needed.
re-ask      share of the system's slot requests whose answer was known already. Stands beside ACR, which alone rewards over-asking.
GCR         goal completion: mean over dialogues of satisfied units / all units; units are each ok_call and each information request
            answered rightly, at the first mention of its slot after the user asked.
pass^k      chance that all of k independent dialogues about one goal complete its task (unbiased: C(c, k) / C(n, k)).

The definitions are ours after the paper's names (arXiv 2508.03058), whose dialogue set and scoring are private.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

from vrpo.tasks.dialogue.canonical import canonical

Turn = dict[str, Any]
Canonical = Callable[[str, str, str], str]  # service, slot, value -> canonical value

DONTCARE = "dontcare"


def same_spelling(service: str, slot: str, value: str) -> str:
    """The default canonical form: `canonical`, whatever service and slot are."""
    return canonical(value)


@dataclass(frozen=True)
class Goal:
    """A sub-goal.

    Attributes:
        constraints: slot -> canonical value of the final call.
        requests: (slot, right answer) of each information request, in the order in which the user makes them.
        defaults: slot -> value that a call may hold without being asked for it.
        bookings: successful calls that are intended, for a transactional intent.
    """

    service: str
    intent: str
    transactional: bool
    required: tuple[str, ...]
    constraints: dict[str, str]
    requests: tuple[tuple[str, tuple[str, ...]], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()
    bookings: int = 1


@dataclass(frozen=True)
class DialogueScore:
    """Counts of one dialogue; `summarise` adds them up."""

    ok_calls: tuple[bool, ...]
    unintended: int
    answered: tuple[bool, ...]
    needed: int
    asked: int
    requests: int
    repeated_requests: int

    @property
    def completed(self) -> bool:
        """Whether the dialogue counts for TCR."""
        return all(self.ok_calls) and not self.unintended

    @property
    def goal_share(self) -> float:
        """Satisfied units / all units."""
        units = [*self.ok_calls, *self.answered]
        return sum(units) / len(units)


def score_dialogue(
    goals: Sequence[Goal],
    turns: Sequence[Turn],
    *,
    transactional: Callable[[str, str], bool],
    budget: int | None = None,
    same: Canonical = same_spelling,
) -> DialogueScore:
    """Score one dialogue.

    Args:
        goals: its sub-goals.
        turns: what was said and called.
        transactional: (service, intent) -> whether such a call changes the world.
        budget: system turns that count; None: all.
        same: canonical form of a value.
    """
    turns = _within_budget(turns, budget)
    calls = [(place, call) for place, turn in enumerate(turns) for call in turn.get("calls") or []]
    needed, asked = _needed_and_asked(goals, turns, calls)
    requests, repeated = _requests(turns)
    return DialogueScore(
        ok_calls=tuple(_ok_call(goal, calls, same) for goal in goals),
        unintended=_unintended(goals, calls, transactional),
        answered=_answered(goals, turns, same),
        needed=needed,
        asked=asked,
        requests=requests,
        repeated_requests=repeated,
    )


def summarise(scores: Sequence[DialogueScore]) -> dict[str, float | int | None]:
    """TCR, ACR, re-ask rate and GCR over dialogues; None where undefined."""
    needed, requests = sum(score.needed for score in scores), sum(score.requests for score in scores)
    return {
        "tcr": sum(score.completed for score in scores) / len(scores),
        "acr": sum(score.asked for score in scores) / needed if needed else None,
        "reask_rate": sum(score.repeated_requests for score in scores) / requests if requests else None,
        "gcr": sum(score.goal_share for score in scores) / len(scores),
        "dialogues": len(scores),
    }


def pass_hat_k(groups: Sequence[Sequence[bool]], k: int) -> float:
    """pass^k: mean over goals of C(c, k) / C(n, k), c of the n dialogues about a goal being complete.

    Raises:
        ValueError: a group has fewer than k dialogues.
    """
    if any(len(group) < k for group in groups):
        raise ValueError(f"pass^{k} needs at least {k} dialogues for each goal")
    return sum(comb(sum(group), k) / comb(len(group), k) for group in groups) / len(groups)


def _within_budget(turns: Sequence[Turn], budget: int | None) -> list[Turn]:
    kept, system = [], 0
    for turn in turns:
        system += turn["speaker"] == "system"
        if budget is not None and system > budget:
            break
        kept.append(turn)
    return kept


def _ok_call(goal: Goal, calls: Sequence[tuple[int, dict[str, Any]]], same: Canonical) -> bool:
    own = [call for _, call in calls if (call["service"], call["method"]) == (goal.service, goal.intent)]
    if not own:
        return False
    said = {slot: same(goal.service, slot, value) for slot, value in own[-1]["parameters"].items()}
    wanted = {slot: same(goal.service, slot, value) for slot, value in goal.constraints.items()}
    free = {slot: same(goal.service, slot, value) for slot, value in goal.defaults}
    matched = all(said.get(slot) == value for slot, value in wanted.items())
    return matched and all(value in (DONTCARE, free.get(slot)) for slot, value in said.items() if slot not in wanted)


def _unintended(goals: Sequence[Goal], calls: Sequence[tuple[int, dict[str, Any]]], transactional: Callable[[str, str], bool]) -> int:
    allowed = {(goal.service, goal.intent): goal.bookings for goal in goals}
    count = 0
    for _, call in calls:
        key = (call["service"], call["method"])
        if not transactional(*key):
            continue
        if key not in allowed:
            count += 1
        elif call["n_results"]:
            allowed[key] -= 1
            count += allowed[key] < 0
    return count


def _events(turn: Turn) -> dict[tuple[str, str], str]:
    """What a turn does to each (service, slot) first: "asks" for it, or "tells" it."""
    events: dict[tuple[str, str], str] = {}
    for act in turn["acts"]:
        key = (act["service"], act.get("slot"))
        if turn["speaker"] == "system" and act["act"] == "REQUEST":
            events.setdefault(key, "asks")
        elif (act["act"] == "INFORM" and turn["speaker"] == "user") or (act["act"] in ("OFFER", "CONFIRM") and act.get("values")):
            events.setdefault(key, "tells")
    for service, frame in (turn.get("state") or {}).items():
        for slot in frame.get("slots", {}):
            events.setdefault((service, slot), "tells")
    return events


def _needed_and_asked(goals: Sequence[Goal], turns: Sequence[Turn], calls: Sequence[tuple[int, dict[str, Any]]]) -> tuple[int, int]:
    first: dict[tuple[str, str], tuple[int, str]] = {}  # place of the turn that touches each slot first, and how
    for place, turn in enumerate(turns):
        for key, event in _events(turn).items():
            first.setdefault(key, (place, event))
    counted: set[tuple[str, str]] = set()
    needed = asked = 0
    starts = [
        next((place for place, call in calls if (call["service"], call["method"]) == (goal.service, goal.intent)), len(turns))
        for goal in goals
    ]
    for goal, start in sorted(zip(goals, starts, strict=True), key=lambda pair: pair[1]):
        for slot in goal.required:
            key = (goal.service, slot)
            place, event = first.get(key, (start, ""))
            event = event if place < start else ""  # what comes with the call, or after it, helped nobody
            if key in counted or event == "tells":
                continue
            counted.add(key)
            needed += 1
            asked += event == "asks"
    return needed, asked


def _requests(turns: Sequence[Turn]) -> tuple[int, int]:
    """Slot requests of the system, and those for slots that the dialogue had told already."""
    told: set[tuple[str, str]] = set()
    requests = repeated = 0
    for turn in turns:
        for act in turn["acts"]:
            if turn["speaker"] == "system" and act["act"] == "REQUEST":
                requests += 1
                repeated += (act["service"], act.get("slot")) in told
        told |= {key for key, event in _events(turn).items() if event == "tells"}
        # a value that fell through may be asked for again
        if any(act["act"] == "NOTIFY_FAILURE" for act in turn["acts"]):
            told -= {(act["service"], slot) for act in turn["acts"] for service, slot in list(told) if service == act["service"]}
    return requests, repeated


def _answered(goals: Sequence[Goal], turns: Sequence[Turn], same: Canonical) -> tuple[bool, ...]:
    """Whether each information request, goal by goal, got its right answer at the next mention of its slot."""
    asked: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, turn in enumerate(turns):
        for act in turn["acts"]:
            if turn["speaker"] == "user" and act["act"] == "REQUEST":
                asked[(act["service"], act.get("slot"))].append(place)
    found = []
    for goal in goals:
        for slot, answer in goal.requests:
            places = asked[(goal.service, slot)]
            found.append(bool(places) and _right_answer(goal.service, slot, answer, turns[places.pop(0) + 1 :], same))
    return tuple(found)


def _right_answer(service: str, slot: str, answer: Sequence[str], following: Sequence[Turn], same: Canonical) -> bool:
    right = {same(service, slot, value) for value in answer}
    for turn in following:
        for act in turn["acts"]:
            if turn["speaker"] == "system" and (act["service"], act.get("slot")) == (service, slot) and act["act"] in ("INFORM", "OFFER"):
                return {same(service, slot, value) for value in act.get("values") or []} == right
    return False
