"""The implicit reward of a policy trained on preferences, r(x, y) = beta * log pi(y | x) / pi_ref(y | x) (DPO, arXiv 2305.18290, equation 5).

It reads a response token by token, so that a small model sees one wrong step where a classifier, which has to carry it in its last
state, does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vrpo.data.batch import Rollout
from vrpo.data.text import pad_prompts
from vrpo.models.forward import policy_forward
from vrpo.models.supervised import Completion, encode_pairs


class ImplicitReward:
    """Scores responses; higher is better.

    Args:
        policy, reference: causal LMs on one device, the former trained on preferences from the latter.
        tokenizer: of both.
        beta: scale of the log-ratio, that of the training.
        batch_size: responses read together.
    """

    def __init__(self, policy: Any, reference: Any, tokenizer: Any, beta: float, batch_size: int = 64) -> None:
        self.policy, self.reference, self.tokenizer = policy.eval(), reference.eval(), tokenizer
        self.beta, self.batch_size = beta, batch_size

    @torch.no_grad()
    def __call__(self, prompts: list[str], responses: Sequence[Completion]) -> list[float]:
        """One score per (prompt, response), EOS included; of a dialogue every token after the prompt counts, as in the training."""
        encoded = encode_pairs(self.tokenizer, prompts, list(responses), self.policy)
        ids, prompt_mask = pad_prompts([prompt for prompt, _ in encoded], self.tokenizer.pad_token_id)
        completions = [torch.tensor(completion) for _, completion in encoded]
        answers = torch.nn.utils.rnn.pad_sequence(completions, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = torch.arange(answers.shape[1]) < torch.tensor([len(completion) for completion in completions])[:, None]
        rollout = Rollout(ids, prompt_mask, answers, mask, torch.zeros(mask.shape))
        scores = torch.zeros(len(encoded))
        for rows in rollout.micro_batches(self.batch_size):
            micro = rollout[rows].trim().to(self.policy.device)
            ratio = policy_forward(self.policy, micro, 1.0).logprobs - policy_forward(self.reference, micro, 1.0).logprobs
            scores[rows] = self.beta * (ratio * micro.response_mask).sum(1).cpu()
        return scores.tolist()
