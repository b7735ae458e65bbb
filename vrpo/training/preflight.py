"""What a run is made of, looked at before anything is copied, sampled or trained."""

from __future__ import annotations

from typing import Any

from vrpo.config import GenerationConfig
from vrpo.data.prompts import TOKENS
from vrpo.data.text import encode, end_tokens, turn_bridge
from vrpo.errors import UserError
from vrpo.models.limits import check_prompts
from vrpo.rewards.calling import Reward, check_reward
from vrpo.rollout.conversation import Environment

Rows = list[dict[str, Any]]


def check_run(
    policy: Any,
    tokenizer: Any,
    problems: Rows,
    validation: Rows,
    generation: GenerationConfig,
    environment: Environment | None,
    reward: Reward,
    clean_reward: Reward | None,
) -> None:
    """Make sure that a policy can answer all prompts and that rewards can be asked about all rows (see `vrpo.training.trainer.Trainer`).

    Raises:
        UserError: names what does not fit, its value and the cure.
    """
    if tokenizer is None:
        raise UserError("tokenizer is None: it may be left out only where the policy is a folder or a hub id; pass the policy's tokenizer")
    end_tokens(policy, tokenizer)
    if environment is not None:
        turn_bridge(tokenizer)
    for rows, what in ((problems, "training data, row"), (validation, "validation data, row")):
        prompts = encode(tokenizer, [row["prompt"] for row in rows]) if rows else []
        check_prompts(policy, tokenizer, prompts, generation.max_new_tokens, what, training=True)
    for function, rows in ((reward, problems), (clean_reward or reward, problems), (clean_reward or reward, validation)):
        if rows:
            check_reward(function, [*(name for name in rows[0] if name != "prompt"), TOKENS])
