"""Environments of the package `verifiers` (the format of Prime Intellect's hub) for `vrpo.training.trainer.Trainer`.

    given = from_verifiers("my-environment")  # or an environment object
    Trainer(config, policy, tokenizer, given.problems, given.reward, environment=given.environment, generation=given.generation(max_new_tokens=256))

Nothing of an environment is done anew: its own loop runs, with the policy's turns in place of a model's answers. So stops, state, its last
message, weights of the rubric, asynchronous rewards and rewards of whole groups are what they are there. A dialogue is replayed from its
beginning for each turn, which costs little where answers are computed, and asks that they depend on the conversation alone: an environment
that answers the same turns otherwise each time (a model as simulated user, say) cannot be trained on here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

from vrpo.config import GenerationConfig
from vrpo.data.prompts import TURN_SEPARATOR
from vrpo.errors import UserError, shown
from vrpo.rollout.conversation import Environment

INSTALL = "environments of verifiers need that package, with its classic classes: pip install 'verifiers>=0.2,<0.4'"


@dataclass(frozen=True)
class FromVerifiers:
    """An environment of `verifiers` as what the `Trainer` takes.

    Attributes:
        problems, validation: rows with the `prompt` (messages or text), its `id` and the whole `input` of the environment's data set. Without
            evaluation data there is no validation.
        reward: the rubric's weighted sum for each response; None where the environment reports an error.
        environment: None for tasks of one turn.
        max_turns: the environment's limit; None where it has none.
    """

    problems: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    reward: Any
    environment: Environment | None
    max_turns: int | None

    def generation(self, **settings: Any) -> GenerationConfig:
        """A `GenerationConfig` with as many turns as the environment allows."""
        return GenerationConfig(**({"max_turns": self.max_turns} if self.max_turns else {}), **settings)


def from_verifiers(environment: Any, **arguments: Any) -> FromVerifiers:
    """Read an environment.

    Args:
        environment: a `SingleTurnEnv` or `MultiTurnEnv`, or the name of an installed one, which `verifiers.load_environment` knows.
        arguments: for `load_environment`.

    Raises:
        UserError: the package is missing, the environment is none of these, has no training data, or gives the model tools.
    """
    try:
        import verifiers
        from verifiers import MultiTurnEnv, SingleTurnEnv
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None
    if isinstance(environment, str):
        environment = verifiers.load_environment(environment, **arguments)
    if not isinstance(environment, MultiTurnEnv):
        raise UserError(f"environment: {shown(environment)} is no SingleTurnEnv or MultiTurnEnv of verifiers; give one, or its name")
    if getattr(environment, "tool_defs", None):
        raise UserError(
            f"environment: {type(environment).__name__} gives the model tools, and tool calls are not read here; use one without"
        )
    if environment.build_dataset() is None:
        raise UserError(f"environment: {type(environment).__name__} has no data to train on; give it a dataset")
    replay = _Replay(environment)
    evaluation = environment.build_eval_dataset()
    return FromVerifiers(
        problems=_rows(environment.dataset),
        validation=[] if evaluation is None else _rows(evaluation),
        reward=replay.reward,
        environment=None if isinstance(environment, SingleTurnEnv) else replay.reply,
        max_turns=environment.max_turns if environment.max_turns > 0 else None,
    )


def _rows(dataset: Any) -> list[dict[str, Any]]:
    """A `datasets.Dataset` as rows. Its messages have every key that one of them has; those without a value are left out."""
    rows = []
    for row in dataset:
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = [{key: value for key, value in message.items() if value is not None} for message in prompt]
        rows.append({"prompt": prompt, "id": str(row["example_id"]), "input": {**row, "prompt": prompt}})
    return rows


class _Waits(Exception):
    """The environment waits for a turn that has not been spoken yet."""

    def __init__(self, messages: Sequence[Any], state: Any) -> None:
        super().__init__("the conversation goes on")
        self.messages, self.state = messages, state


class _Replay:
    """Runs an environment's own loop on turns that have been spoken.

    One event loop, in a thread of its own, for as long as the program runs: a judge's client belongs to the loop that first used it, and a
    notebook has a loop already.
    """

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.loop = asyncio.new_event_loop()
        Thread(target=self.loop.run_forever, name="verifiers", daemon=True).start()

    def reply(self, row: dict[str, Any], turns: list[str]) -> str | None:
        """See `vrpo.rollout.conversation.Environment`."""
        waiting, _ = self._run(self._play(row["input"], turns))
        if waiting is None:
            return None
        spoken = [place for place, message in enumerate(waiting) if _of(message, "role") == "assistant"]
        answer = waiting[spoken[-1] + 1 :] if len(spoken) >= len(turns) else []
        if not answer or any(_of(message, "role") != "user" or not isinstance(_of(message, "content"), str) for message in answer):
            found = [(_of(message, "role"), _of(message, "content")) for message in answer]
            raise UserError(
                f"environment: {type(self.environment).__name__} goes on with {shown(found)}; here the conversation so far stays, and "
                "messages of role user with text follow it"
            )
        return "\n".join(_of(message, "content") for message in answer)

    def reward(self, prompts: Sequence[Any], responses: Sequence[str], *, input: Sequence[dict[str, Any]], **_: Any) -> list[float | None]:
        """The rubric's sum for each response; those to one row are scored as a group."""
        return self._run(self._score(responses, input))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _play(self, given: dict[str, Any], turns: Sequence[str]) -> tuple[Sequence[Any] | None, Any]:
        """The messages on which the environment waits for another turn, or None when it is over, and its state."""
        try:
            return None, await self.environment.rollout(given, _spoken(turns), model="policy", sampling_args={})
        except _Waits as waits:
            waits.state["is_truncated"] = True
            return waits.messages, waits.state

    async def _score(self, responses: Sequence[str], inputs: Sequence[dict[str, Any]]) -> list[float | None]:
        played = await asyncio.gather(
            *(self._play(given, text.split(TURN_SEPARATOR)) for text, given in zip(responses, inputs, strict=True))
        )
        states = [state for _, state in played]
        groups: dict[Any, list[Any]] = {}
        for state, given in zip(states, inputs, strict=True):
            if state.get("error") is None:
                groups.setdefault(given["example_id"], []).append(state)
        await asyncio.gather(*(self.environment.rubric.score_group(group) for group in groups.values()))
        return [None if state.get("error") is not None else state["reward"] for state in states]


def _of(message: Any, name: str) -> Any:
    """A field of a message, which is a dictionary or an object."""
    return message.get(name) if isinstance(message, dict) else getattr(message, name, None)


def _spoken(turns: Sequence[str]) -> Any:
    """A client of `verifiers` that answers with these turns, one after the other, and then raises `_Waits`."""
    from verifiers.clients import OpenAIChatCompletionsClient
    from verifiers.types import Response, ResponseMessage

    class Spoken(OpenAIChatCompletionsClient):
        def __init__(self) -> None:
            super().__init__(None)
            self.left = list(turns)

        async def get_response(self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **context: Any) -> Response:
            if not self.left:
                raise _Waits(prompt, context["state"])
            message = ResponseMessage(content=self.left.pop(0), finish_reason="stop", is_truncated=False)
            return Response(id="turn", created=0, model=model, message=message)

    return Spoken()
