"""A simulated user with an agenda, and the service behind the assistant. Both only react: everything they do follows from the
scenario and from what the assistant has said.

The assistant speaks one line a turn, in a protocol that a small model learns quickly and a large one follows from its prompt:

    ask date time                          request slots
    confirm date=tue time=18:00 people=4   read values back before a transactional call
    call book_table date=tue ...           call a service; its answer comes with the user's next message
    tell price=25                          answer an information request
    bye                                    end the dialogue

The user volunteers some slots and withholds others until asked (a terse one answers one slot at a time), corrects itself in the same
breath or one message later, and may change its mind when asked to confirm. Its words are often surfaces ("next_tuesday"),
the assistant's values canonical (`date=tue`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vrpo.tasks.dialogue.services import CANONICAL, INTENTS, SURFACES

VERBS = ("ask", "confirm", "call", "tell", "bye")

_PAIR = re.compile(r'(\w+)=("[^"]*"|\S+)')


@dataclass(frozen=True)
class Action:
    """A parsed line of the assistant: verb, slots asked for, intent called, values said. Verb "" where nothing was understood."""

    verb: str = ""
    slots: tuple[str, ...] = ()
    intent: str = ""
    values: tuple[tuple[str, str], ...] = ()


def parse(line: str) -> Action:
    """The last line that begins with a verb of the protocol; free text around it is ignored."""
    for text in reversed(line.strip().splitlines()):
        words = text.split()
        if not words or words[0].casefold().rstrip(":") not in VERBS:
            continue
        verb, rest = words[0].casefold().rstrip(":"), text.split(None, 1)[1] if len(words) > 1 else ""
        values = tuple((slot, value.strip('"')) for slot, value in _PAIR.findall(rest))
        plain = tuple(word.strip(",") for word in _PAIR.sub("", rest).split())
        if verb == "ask":
            return Action(verb, slots=plain) if plain else Action()
        if verb == "call":
            return Action(verb, intent=plain[0], values=values) if len(plain) == 1 else Action()
        if verb in ("confirm", "tell"):
            return Action(verb, values=values) if values and not plain else Action()
        return Action(verb)
    return Action()


@dataclass
class Dialogue:
    """The state of a dialogue: `turns` as annotated for the metrics, `messages` as said, `over` once the user has left.

    Build it with `play`; it moves with each of the assistant's lines.
    """

    scenario: dict[str, Any]
    english: bool = False
    turns: list[dict[str, Any]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    over: bool = False

    def __post_init__(self) -> None:
        self._current = -1
        self._told: dict[str, str] = {}  # slot -> surface the user last said, of this goal
        self._mend: tuple[str, str] | None = None  # a correction that the user still owes
        self._open: list[str] = []  # information requests without an answer
        self._acts: list[dict[str, Any]] = []
        self._words: list[str] = []
        self._next_goal()
        self._speak()

    @property
    def goal(self) -> dict[str, Any]:
        return self.scenario["goals"][self._current]

    def step(self, line: str) -> None:
        """Let the assistant say a line; the service and the user react."""
        action = parse(line)
        self._acts, self._words = [], []
        self._system_turn(action, line)
        if action.verb == "bye":
            self.over = True
            return
        mend = self._mend  # owed before this turn
        getattr(self, f"_react_to_{action.verb or 'nonsense'}")(action)
        if self.over:
            return
        if mend and mend == self._mend:
            self._correct()
        self._speak()

    # -- the assistant's side, annotated

    def _system_turn(self, action: Action, line: str) -> None:
        service = self.goal["service"]
        turn: dict[str, Any] = {"speaker": "system", "utterance": line, "acts": []}
        if action.verb == "ask":
            turn["acts"] = [{"service": service, "act": "REQUEST", "slot": slot} for slot in action.slots]
        elif action.verb in ("confirm", "tell"):
            act = "CONFIRM" if action.verb == "confirm" else "INFORM"
            turn["acts"] = [{"service": service, "act": act, "slot": slot, "values": [value]} for slot, value in action.values]
        elif action.verb == "bye":
            turn["acts"] = [{"service": service, "act": "GOODBYE"}]
        elif action.verb == "call" and action.intent in INTENTS:
            called, intent = INTENTS[action.intent]
            parameters = dict(action.values)
            served = set(intent.required) <= set(parameters)
            turn["calls"] = [{"service": called.name, "method": action.intent, "parameters": parameters, "n_results": int(served)}]
        self.turns.append(turn)

    # -- the user's side

    def _react_to_nonsense(self, action: Action) -> None:
        self._say("what")

    def _react_to_ask(self, action: Action) -> None:
        wanted = [slot for slot in dict.fromkeys(action.slots) if slot in self.goal["slots"]]
        if not wanted:
            return self._say("never_mind")
        for slot in wanted[:1] if self.goal["terse"] else wanted:
            self._tell(slot)

    def _react_to_confirm(self, action: Action) -> None:
        if self.goal["mends"] == "asked" and self.goal["first"]:
            (slot,) = self.goal["first"]
            if slot in self._told and self._told[slot] == self.goal["first"][slot]:
                self._mend = (slot, self.goal["words"][slot])
        if self._mend:
            self._acts.append(self._act("NEGATE"))
            self._say("no")
            return self._correct(sorry=False)
        wrong = [slot for slot, value in action.values if slot in self._told and CANONICAL[self._told[slot]][1] != value]
        if wrong:
            self._acts.append(self._act("NEGATE"))
            self._say("no")
            for slot in wrong:
                self._say_value(slot, self._told[slot])
            return None
        self._acts.append(self._act("AFFIRM"))
        self._say("yes")
        return None

    def _react_to_call(self, action: Action) -> None:
        calls = self.turns[-1].get("calls")
        if not calls or not calls[0]["n_results"]:
            return self._say("result_error")
        if calls[0]["method"] != self.goal["intent"]:
            self._say("result_ok")
            return self._say("what")
        self._say("result_ok")
        if self.english:
            self._words += [f"{slot}: {value}" for slot, value in self.goal["results"].items()]
        self._mend = None  # too late
        self._open = list(self.goal["requests"])
        return self._go_on()

    def _react_to_tell(self, action: Action) -> None:
        said = {slot for slot, _ in action.values}
        if not self._open:
            return self._say("never_mind")
        self._open = [slot for slot in self._open if slot not in said]
        return self._go_on()

    def _go_on(self) -> None:
        """Ask what is still open, or turn to the next goal, or leave."""
        if self._open:
            for slot in self._open:
                self._acts.append(self._act("REQUEST", slot))
                if self.english:
                    self._words.append(f"what is the {slot}?")
        elif self._current + 1 < len(self.scenario["goals"]):
            self._next_goal()
        else:
            self.over = True

    def _next_goal(self) -> None:
        before = {} if self._current < 0 else {slot: self.goal["words"][slot] for slot in self.goal["slots"]}
        self._current += 1
        goal = self.goal
        self._told = {slot: word for slot, word in before.items() if slot in goal["slots"]}
        self._acts.append(self._act("INFORM_INTENT", "intent", goal["intent"]))
        self._words.append(f"I would like to {goal['intent'].replace('_', ' ')}" if self.english else f"want {goal['intent']}")
        for slot in goal["volunteers"]:
            self._tell(slot)

    def _tell(self, slot: str) -> None:
        """Say the value of a slot: the first time perhaps a wrong one, mended at once or owed."""
        goal = self.goal
        first = goal["first"].get(slot)
        if first is None or slot in self._told:
            return self._say_value(slot, self._told.get(slot) or goal["words"][slot])
        self._say_value(slot, first)
        if goal["mends"] == "at once":
            self._mend = (slot, goal["words"][slot])
            return self._correct()
        if goal["mends"] == "later":
            self._mend = (slot, goal["words"][slot])
        return None

    def _correct(self, sorry: bool = True) -> None:
        slot, word = self._mend
        self._mend = None
        if sorry:
            self._say("sorry")
        self._say_value(slot, word)

    def _say_value(self, slot: str, word: str) -> None:
        self._told[slot] = word
        self._acts.append(self._act("INFORM", slot, CANONICAL[word][1]))
        spelled = f"{slot} {word}" if word in SURFACES[slot] else word.replace("_", " ")
        self._words.append(spelled if self.english else word)

    def _say(self, word: str) -> None:
        self._words.append(ENGLISH[word] if self.english else word)

    def _act(self, act: str, slot: str | None = None, value: str | None = None) -> dict[str, Any]:
        return {"service": self.goal["service"], "act": act} | ({"slot": slot} if slot else {}) | ({"values": [value]} if value else {})

    def _speak(self) -> None:
        state = {self.goal["service"]: {"intent": self.goal["intent"], "slots": {slot: [word] for slot, word in self._told.items()}}}
        message = ", ".join(self._words) if self.english else " ".join([*self._words, *self._form()])
        self.turns.append({"speaker": "user", "utterance": message, "acts": self._acts, "state": state})
        self.messages.append(message)

    def _form(self) -> list[str]:
        """What symbols show at the end of every message: a cell for each slot of the goal with what the user last said, or the answers asked for.

        Like the worksheet of `vrpo.tasks.math.chain`: cells at constant distances are what lets a very small Transformer learn in a few
        hundred steps. `.` stands for a slot that was not told, `-` fills the form up.
        """
        if self._open:
            cells = [word for slot in self._open for word in (f"{slot}?", self.goal["results"][slot])]
        else:
            cells = [word for slot in self.goal["slots"] for word in (f"{slot}:", self._told.get(slot, "."))]
        return cells + ["-"] * (FORM_LENGTH - len(cells))


FORM_LENGTH = 2 * max(len(intent.required) for _, intent in INTENTS.values())
ENGLISH = {
    "what": "sorry, what do you mean?",
    "never_mind": "that does not matter",
    "no": "no",
    "yes": "yes",
    "sorry": "sorry, I mean",
    "result_error": "[service: error]",
    "result_ok": "[service: done]",
}


def play(scenario: dict[str, Any], lines: Sequence[str], english: bool = False) -> Dialogue:
    """The dialogue in which the assistant says `lines`; lines after its end are ignored."""
    dialogue = Dialogue(scenario, english)
    for line in lines:
        if dialogue.over:
            break
        dialogue.step(line)
    return dialogue
