"""Task-oriented dialogue: services of five domains, a simulated user, and metrics that also score real dialogues.

`services.py` the world; `simulator.py` the user and the service behind it; `assistant.py` a scripted assistant that slips (the corpus);
`metrics.py` TCR, ACR, GCR, re-ask rate, pass^k; `canonical.py` values compared, not their spellings; `sgd.py` Schema-Guided
Dialogue data, `damage.py` damaged replays of it; `task.py` the interface to the pipeline.
"""

from vrpo.tasks.base import Domain, Measures
from vrpo.tasks.dialogue.task import DialogueTask


def _assistant(tokenizer, max_turns: int, wording: str) -> DialogueTask:
    return DialogueTask(tokenizer, max_turns, english=wording == "english")


DOMAIN = Domain(
    title="slot-filling dialogues",
    procedural=_assistant,
    rows_title="recorded dialogues",
    voted_on=False,
    rewards_turns=True,
    measures=Measures(
        name="dialogue",
        title="Dialogues",
        caption=(
            "In percent, means over seeds ± half a {percent} interval. TCR: dialogues that complete their task. ACR: share of "
            "needed slots that were asked for; re-asks: share of questions whose answer was known. GCR: share of calls and "
            "answers that are right. pass^k: all of k dialogues about one goal complete it. Lengths count the assistant's tokens"
            " alone."
        ),
        columns={
            **{"TCR": "tcr", "ACR": "acr", "Re-asks": "reask_rate", "GCR": "gcr", "pass^{}": "pass_hat_k"},
            **{"Assistant's tokens": "response_length", "of the cold start's": "length_inflation"},
        },
        shares=("tcr", "acr", "reask_rate", "gcr"),
    ),
)
