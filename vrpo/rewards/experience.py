"""From sampled responses and their scores to an experience: rewards where they are earned, and masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vrpo.data.batch import Experience, Rollout
from vrpo.data.masking import last_token
from vrpo.data.text import spans
from vrpo.errors import UserError
from vrpo.rewards.calling import Score, require_scores, totals


def repeats(rows: Sequence[dict[str, Any]]) -> list[int]:
    """How often each row's problem (its `id`, or its prompt) stands among the rows before it: what rewards get as `samples`."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        problem = repr(row.get("id", row["prompt"]))
        found.append(seen[problem])
        seen[problem] += 1
    return found


def new_experience(rollout: Rollout, scores: Sequence[Score]) -> Experience:
    """A rollout with its scores on the last response token, or on the last token of each turn.

    Unscored rows lose their mask, and so leave every loss.

    Raises:
        UserError: no response is scored; others as `token_rewards`.
    """
    require_scores(scores, "responses of an iteration")
    fields = {name: value for name, value in vars(rollout).items() if name != "response_mask"}
    scored = torch.tensor([score is not None for score in scores])
    rewards = token_rewards(scores, rollout.response_mask)
    return Experience(**fields, response_mask=rollout.response_mask & scored[:, None], rewards=rewards, scored=scored)


def token_rewards(scores: Sequence[Score], mask: Tensor) -> Tensor:
    """Scores where they are earned, at the end of each response of `mask` [B, T] or of each of its turns; 0 for None. float32 [B, T].

    Raises:
        UserError: a response has another number of turns than of scores.
    """
    rewards = at_last_token(torch.tensor([total or 0.0 for total in totals(scores)]), mask)
    for row, score in enumerate(scores):
        if isinstance(score, int | float) or score is None:
            continue
        ends = [turn.stop - 1 for turn in spans(mask[row])]
        if len(ends) != len(score):
            raise UserError(
                f"the reward gave {len(score)} scores to a response of {len(ends)} turns; it must give one number, or one a turn"
            )
        rewards[row] = 0.0
        rewards[row, ends] = torch.tensor(score, dtype=torch.float32)
    return rewards


def at_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores [B] on the last True position of each row of `mask` [B, T]; [B, T]."""
    return scores[:, None] * last_token(mask)
