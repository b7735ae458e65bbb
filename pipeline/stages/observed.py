"""The reward that training sees, for training itself and for measuring it: a rule on the noisy labels, a learned or one's own, through the
channels of params.noise, corrected where params.reward asks for it. And the clean one, which nothing learns from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import own_code
from pipeline.params import Params
from pipeline.workspace import Workspace
from vrpo.errors import UserError, shown

CHECKED, EVALUATED = -1, -2  # what stands for the iteration in the draws of noise outside training
COLUMNS = ("id", "answer", "label")  # of the rows that rewards are asked about


def observed_reward(params: Params, task: Any, seed: int, workspace: Workspace) -> Any:
    """What training sees, before any correction; as `vrpo.training.trainer.Trainer` calls it. Rules need the column `label`, learned rewards
    `answer` (dialogues are read whole), noise `id`, and functions what they name of `COLUMNS`."""
    if params.reward.kind == "function":
        reward = own_reward(params)
    elif params.reward.kind != "rule":
        from pipeline.stages.reward import learned_reward

        reward = learned_reward(params, task, workspace)
    else:
        score = task.turn_rewards if params.reward.per_turn else task.verify

        def reward(prompts: list[str], responses: list[str], *, label: list[str], **_: Any) -> list:
            return score(responses, label)

    if not params.noise:
        return reward
    from vrpo.rewards.noise import Noise

    noise = Noise(params.noise, seed)

    def noisy(prompts: list[str], responses: list[str], *, id: list[str], step: int, samples: list[int], **columns: Any) -> list:
        rewards = reward(prompts, responses, id=id, step=step, samples=samples, **columns)
        return noise(rewards, step=step, ids=id, samples=samples, responses=responses)

    return noisy


def own_reward(params: Params) -> Any:
    """The function that `reward.function` names.

    Raises:
        UserError: it cannot be loaded, or wants a column that nobody has.
    """
    from vrpo.rewards.calling import check_reward, plain_reward

    spec = str(params.reward.function)
    with own_code.naming("reward.function", spec):
        function = own_code.load(spec, Path())
        if not callable(function):
            raise UserError(f"{spec.rpartition(':')[2]} is {shown(function)}, which cannot be called; name a function or a class")
    check_reward(function, COLUMNS)
    return plain_reward(function)


def clean_reward(params: Params, task: Any) -> Any:
    """The same reward by clean answers: what each turn earns where turns are rewarded, whether the response is right elsewhere."""
    score = task.turn_rewards if params.reward.per_turn else task.verify
    return lambda prompts, responses, *, answer, **_: score(responses, answer)


def corrected_reward(
    params: Params, observed: Any, policy: Any, tokenizer: Any, task: Any, problems: list[dict[str, Any]], seed: int
) -> Any:
    """The observed reward after the correction that params.reward asks for."""
    if params.reward.correction == "none":
        return observed
    from vrpo.rewards.corrections import CorrectedReward, FlipRates

    if params.reward.checked_samples:
        rates = _checked_rates(params, observed, policy, tokenizer, task, problems, seed)
        origin = f"{rates.checked} samples checked"
    else:
        rates = FlipRates.known(params.noise)
        origin = "set in `noise`; wrong labels are not among them"
    print(f"correction: flip rates {rates.false_positive:.3f} and {rates.false_negative:.3f} ({origin})")
    return CorrectedReward(observed, params.reward.correction, rates)


def _checked_rates(params: Params, observed: Any, policy: Any, tokenizer: Any, task: Any, problems: list[dict[str, Any]], seed: int) -> Any:
    """Flip rates of the observed reward, from responses of the cold start that somebody checks."""
    from vrpo.rewards.calling import call_reward
    from vrpo.rewards.corrections import estimate_rates
    from vrpo.rewards.experience import repeats
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import sample_texts, task_replies
    from vrpo.seeding import stream

    rows = stream(problems, 0, params.reward.checked_samples, seed, "checked")
    prompts, reply = [row["prompt"] for row in rows], task_replies(task, rows)
    texts, _ = sample_texts(new_sampler(policy, tokenizer, params.generation), prompts, 1, seed=("checked", seed), reply=reply)
    responses = [text for (text,) in texts]
    return estimate_rates(
        call_reward(observed, rows, responses, CHECKED, repeats(rows), params.train.reward_timeout),
        task.verify(responses, [row["answer"] for row in rows]),
    )


def acting_noise(params: Params, labels: dict[str, Any]) -> dict[str, Any]:
    """The noise of a run's rewards: `labels` (noise.json) where rules read them, that of the preferences where rewards are learned.
    Channels act on all."""
    reward, channels = params.reward, [channel.model_dump() | {"description": channel.describe()} for channel in params.noise]
    acting = {"reward": reward.kind, "channels": channels}
    if reward.kind == "rule":
        return labels | acting
    if reward.kind == "function":
        return {"kind": "own_reward", "function": reward.function} | acting
    noise = {"kind": f"{reward.kind}_reward", "label_error": reward.label_error, "length_bias": reward.length_bias}
    return noise | {"pairwise_accuracy": reward.accuracy} | acting
