"""Task-oriented dialogue as a task of the pipeline (see `vrpo.tasks.base`).

A row's `question` and `answer` are one scenario (see `scenario.new_scenario`); a response is the assistant's lines, joined by
`TURN_SEPARATOR`. What the user said is not kept: it follows from both and is played again wherever it is needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.tasks.base import ProceduralTask
from vrpo.tasks.dialogue.assistant import converse_script
from vrpo.tasks.dialogue.metrics import DialogueScore, pass_hat_k, score_dialogue, summarise
from vrpo.tasks.dialogue.scenario import dump_scenario, load_scenario, new_scenario, scored_goals
from vrpo.tasks.dialogue.services import INTENTS, RESULTS, SERVICES, SURFACES, VALUES
from vrpo.tasks.dialogue.simulator import VERBS, play

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant> {{ message['content'] }} <eos>"
    "{% else %}<user> {{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROTOCOL = """You are an assistant for the {service} service. Answer each message with one line, one of:
ask SLOT ... (request what is missing)
confirm SLOT=VALUE ... (read back before you {transactional})
call INTENT SLOT=VALUE ... (once everything is known)
tell SLOT=VALUE ... (answer a question from what the service returned)
Intents and their slots: {intents}.
Slots and their values: {values}."""


class DialogueTask(ProceduralTask):
    """Prompts, simulated user and exact scoring of dialogues.

    Args:
        tokenizer: its chat template makes the prompts; by default the task's own.
        max_turns: the assistant's turns that count.
        english: the user speaks English and the prompt explains the protocol, for models that know English; else single words.
    """

    name = "dialogue"

    def __init__(self, tokenizer: Any = None, max_turns: int = 10, english: bool = False) -> None:
        self.tokenizer, self.max_turns, self.english = tokenizer or new_tokenizer(), max_turns, english

    def generate(self, count: int, seed: int, exclude: set[str]) -> list[dict[str, Any]]:
        """`count` different scenarios that are not in `exclude`; `length` counts the assistant's turns in a perfect dialogue."""
        rng, seen, rows = random.Random(f"dialogue-{seed}"), set(exclude), []
        while len(rows) < count:
            scenario = new_scenario(rng)
            text = dump_scenario(scenario)
            if text not in seen:
                seen.add(text)
                turns = len(converse_script(scenario, self.max_turns))
                rows.append({"question": text, "answer": text, "length": turns, "service_domain": scenario["domain"]})
        return rows

    def write(self, row: dict[str, Any], rng: random.Random, slip_rate: float) -> list[str]:
        """A dialogue after the prompt, by an assistant that slips at this rate."""
        lines = converse_script(load_scenario(row["answer"]), self.max_turns, rng, slip_rate)
        return self.completion(TURN_SEPARATOR.join(lines), row["answer"])

    def new_tokenizer(self) -> Any:
        """See `new_tokenizer`."""
        return new_tokenizer()

    def prompt(self, question: str) -> str:
        """The user's first message, after the protocol where it speaks English."""
        messages = [{"role": "user", "content": play(load_scenario(question), [], self.english).messages[0]}]
        if self.english:
            messages[0]["content"] = f"{_protocol(load_scenario(question))}\n\n{messages[0]['content']}"
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def environment(self, row: dict[str, Any], turns: list[str]) -> str | None:
        """What user and service answer to the assistant's last turn, None when the user leaves (see `vrpo.rollout.conversation`)."""
        dialogue = play(load_scenario(row["answer"]), turns, self.english)
        return None if dialogue.over else dialogue.messages[-1]

    def demonstration(self, row: dict[str, Any]) -> list[str]:
        """A perfect dialogue after the prompt, the assistant's turn first."""
        return self.completion(self.canonical_response(row["answer"]), row["answer"])

    def completion(self, response: str, answer: str) -> list[str]:
        """A whole dialogue after the prompt: the assistant's turns and what was answered to them, in turn."""
        lines = response.split(TURN_SEPARATOR)
        said = play(load_scenario(answer), lines, self.english).messages[1:]
        return [message for pair in zip(lines, [*said, ""], strict=False) for message in pair][: 2 * min(len(lines), len(said) + 1) - 1]

    def score(self, response: str, answer: str) -> DialogueScore:
        """All counts of one dialogue."""
        scenario = load_scenario(answer)
        dialogue = play(scenario, response.split(TURN_SEPARATOR), self.english)
        return score_dialogue(scored_goals(scenario), dialogue.turns, transactional=is_transactional, budget=self.max_turns)

    def extract(self, response: str, choices: Sequence[dict[str, str]] = ()) -> None:
        """A dialogue has no final answer that votes could be counted by."""
        return None

    def verify(self, responses: list[str], answers: list[str]) -> list[float | None]:
        """1.0 where the task was completed, 0.0 where not, None where the reference is no scenario."""
        scores: list[float | None] = []
        for response, answer in zip(responses, answers, strict=True):
            try:
                scores.append(float(self.score(response, answer).completed))
            except ValueError:
                scores.append(None)
        return scores

    def turn_rewards(self, responses: list[str], answers: list[str]) -> list[list[float]]:
        """What each turn of the assistant adds to the share of satisfied units, and in the last turn to task completion as well.

        Their sum is (goal share + completed) / 2, between 0 and 1.
        """
        rewards = []
        for response, answer in zip(responses, answers, strict=True):
            lines = response.split(TURN_SEPARATOR)
            shares = [self.score(TURN_SEPARATOR.join(lines[:count]), answer).goal_share / 2 for count in range(1, len(lines) + 1)]
            steps = [after - before for before, after in zip([0.0, *shares], shares, strict=False)]
            steps[-1] += self.score(response, answer).completed / 2
            rewards.append(steps)
        return rewards

    def canonical_response(self, answer: str) -> str:
        """The lines of a perfect dialogue; calls hold what a corrupted reference wants."""
        scenario = load_scenario(answer)
        wanted = {goal["intent"]: goal.get("scored") or goal["slots"] for goal in scenario["goals"]}
        lines = []
        for line in converse_script(scenario, self.max_turns):
            verb, *words = line.split()
            slots = wanted.get(words[0]) if verb == "call" else None
            lines.append(line if slots is None else " ".join([verb, words[0], *(f"{slot}={value}" for slot, value in slots.items())]))
        return TURN_SEPARATOR.join(lines)

    def wrong_reference(self, answer: str, answers: Sequence[str], seed: int) -> str:
        """The scenario with another value in one slot of what it is scored against; the user still wants the right one."""
        scenario, rng = load_scenario(answer), random.Random(seed)
        place = rng.randrange(len(scenario["goals"]))
        goal = scenario["goals"][place]
        slot = rng.choice(list(goal["slots"]))
        other = rng.choice([value for value in VALUES[slot] if value != goal["slots"][slot]])
        goals = [*scenario["goals"]]
        goals[place] = {**goal, "scored": {**goal["slots"], slot: other}}
        return dump_scenario({**scenario, "goals": goals})

    def details(self, texts: Sequence[Sequence[str]], answers: Sequence[str]) -> dict[str, Any]:
        """`dialogue`: its metrics over several responses to each problem; pass^k for k up to their number."""
        groups = [[self.score(text, answer) for text in group] for group, answer in zip(texts, answers, strict=True)]
        completed = [[score.completed for score in group] for group in groups]
        found: dict[str, Any] = summarise([score for group in groups for score in group])
        found["pass_hat_k"] = {str(k): pass_hat_k(completed, k) for k in range(1, len(groups[0]) + 1)}
        return {"dialogue": found}


def is_transactional(service: str, intent: str) -> bool:
    """Whether a call changes the world."""
    return INTENTS[intent][1].transactional


def new_tokenizer() -> Any:
    """A word-level tokenizer over everything that user, service and assistant can say, with a chat template.

    `date=tue` is two tokens: a model that has written `date=` knows what to look for, which is what makes the language quick to learn.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>"]
    words = [*VERBS, *["want", "what", "never_mind", "no", "yes", "sorry", "result_error", "result_ok", ".", "-"], *INTENTS, *VALUES]
    for slot, values in SURFACES.items():
        words += [f"{slot}=", f"{slot}:", *values, *values.values()]
    for slot, values in RESULTS.items():
        words += [f"{slot}?", f"{slot}=", *values]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*marks, *words]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("="), "merged_with_previous")]
    )
    spaced = decoders.Replace(Regex("(?<!=)$"), " ")
    core.decoder = decoders.Sequence([spaced, decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _protocol(scenario: dict[str, Any]) -> str:
    service = SERVICES[scenario["goals"][0]["service"]]
    slots = dict.fromkeys(slot for intent in service.intents.values() for slot in intent.required)
    return PROTOCOL.format(
        service=service.name,
        transactional=next(name.replace("_", " ") for name, intent in service.intents.items() if intent.transactional),
        intents="; ".join(f"{name}: {' '.join(intent.required)}" for name, intent in service.intents.items()),
        values="; ".join(f"{slot}: {' '.join(VALUES[slot])}" for slot in slots),
    )
