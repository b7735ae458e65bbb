"""Learned reward: a causal model's backbone with one output, trained on preference pairs that noise has touched; and how a learned
reward is blurred down to a wanted accuracy.

A text is scored at its EOS. Padding is a token of its own, never EOS, so that the plain Hugging Face model, which finds a
text's end by the padding id, gives the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch

from vrpo.errors import UserError
from vrpo.models.loading import damage_named, load_tokenizer, refuse_non_finite
from vrpo.models.supervised import Completion, encode_pairs
from vrpo.seeding import derive_seed, uniform

Scorer = Callable[[list[str], Sequence[Completion]], list[float]]


def noisy_preferences(pairs: list[dict[str, Any]], label_error: float, length_bias: float, seed: int) -> list[dict[str, Any]]:
    """Preferences as a fallible judge gives them, from clean ones (`prompt`, `chosen`, `rejected`).

    A share `length_bias` is decided by length (in characters, those of a whole dialogue if it is one; the longer wins; ties stay), whatever its quality; then a share
    `label_error` of all is flipped. Draws depend on `seed` and the pair's place alone.
    """
    noisy = []
    for index, pair in enumerate(pairs):
        chosen, rejected = pair["chosen"], pair["rejected"]
        if uniform("length", seed, index) < length_bias and _length(rejected) > _length(chosen):
            chosen, rejected = rejected, chosen
        if uniform("error", seed, index) < label_error:
            chosen, rejected = rejected, chosen
        noisy.append({"prompt": pair["prompt"], "chosen": chosen, "rejected": rejected})
    return noisy


def _length(completion: Completion) -> int:
    return len(completion) if isinstance(completion, str) else sum(map(len, completion))


def new_reward_model(
    source: str | Path, *, seed: int, dtype: str = "float32", device: str = "cpu", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A sequence classifier with one output on the backbone of a causal model, and its tokenizer; `seed` fixes the new head.

    Raises:
        UserError: the tokenizer has no special token that could serve as padding beside EOS.
    """
    from transformers import AutoModelForSequenceClassification

    tokenizer = load_tokenizer(source, trust_remote_code)
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        others = [token for token in tokenizer.all_special_tokens if token != tokenizer.eos_token]
        if not others:
            raise UserError(f"{source}: its tokenizer has no special token but EOS; a reward model needs another one as padding")
        tokenizer.pad_token = others[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("reward head", seed))
        with damage_named(source):
            model = AutoModelForSequenceClassification.from_pretrained(
                source,
                num_labels=1,
                pad_token_id=tokenizer.pad_token_id,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
            )
    return model.to(device).eval(), tokenizer


class RewardModelScorer:
    """Scores responses with a saved reward model; higher is better, the scale is that of its logits.

    Raises:
        UserError: `folder` holds no reward model.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", batch_size: int = 64) -> None:
        from transformers import AutoModelForSequenceClassification

        if not (Path(folder) / "model.safetensors").is_file() and not (Path(folder) / "model.safetensors.index.json").is_file():
            raise UserError(f"{folder}: holds no reward model; set reward.kind to 'model' and run `dvc repro reward`")
        self.tokenizer = load_tokenizer(folder)
        with damage_named(folder):
            model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, dtype="auto")
        refuse_non_finite(model, f"{folder}: the reward model")
        self.model = model.to(device).eval()
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, prompts: list[str], responses: list[Completion]) -> list[float]:
        """One score per (prompt, response), the latter a text or the messages of a dialogue; it is scored with EOS after it."""
        rows = [torch.tensor(prompt + response) for prompt, response in encode_pairs(self.tokenizer, prompts, responses)]
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # little padding per batch
        scores = torch.zeros(len(rows))
        for start in range(0, len(rows), self.batch_size):
            batch = by_length[start : start + self.batch_size]
            scores[batch] = self._score([rows[index] for index in batch])
        return scores.tolist()

    def _score(self, rows: list[torch.Tensor]) -> torch.Tensor:
        """float32 [B] on the CPU: the head's output at each row's last token, as the mask tells it."""
        device = self.model.device
        ends = torch.tensor([len(row) - 1 for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id).to(device)
        mask = (torch.arange(ids.shape[1]) <= ends[:, None]).to(device)
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.model.score(hidden[torch.arange(len(rows)), ends])[:, 0].float().cpu()


class BlurredReward:
    """A learned reward whose scores are off by `blur` times a standard normal draw: an error that stays with a response.

    Args:
        scorer: `(prompts, responses) -> scores`.
        blur: in units of the scores; 0 leaves them as they are.
        seed: with prompt and response it fixes every draw.
    """

    def __init__(self, scorer: Scorer, blur: float, seed: int) -> None:
        self.scorer, self.blur, self.seed = scorer, blur, seed

    def __call__(self, prompts: list[str], responses: Sequence[Completion]) -> list[float]:
        scores = self.scorer(prompts, responses)
        return [score + self.blur * draw for score, draw in zip(scores, self.draws(prompts, responses), strict=True)]

    def draws(self, prompts: Sequence[str], responses: Sequence[Completion]) -> list[float]:
        """Standard normal, one per (prompt, response)."""
        places = (uniform("blur", self.seed, *key) for key in zip(prompts, responses, strict=True))
        return [NormalDist().inv_cdf(min(max(place, 1e-12), 1 - 1e-12)) for place in places]


def pairwise_accuracy(scorer: Scorer, pairs: Sequence[dict[str, Any]]) -> float:
    """Share of pairs (`prompt`, `chosen`, `rejected`) whose chosen response scores higher."""
    return sum(margin > 0 for margin in _margins(scorer, pairs)) / len(pairs)


def find_blur(scorer: Scorer, pairs: Sequence[dict[str, Any]], accuracy: float, seed: int) -> float:
    """The smallest blur that brings a reward's accuracy on clean pairs down to `accuracy`; 0 where it is not above it."""
    margins = _margins(scorer, pairs)
    draws = _margins(BlurredReward(scorer, 1.0, seed).draws, pairs)
    # A pair changes sides at most once as the blur grows, at -margin / draw.
    turns = sorted(-margin / draw for margin, draw in zip(margins, draws, strict=True) if margin * draw < 0)
    for blur in (0.0, *(turn * (1 + 1e-6) for turn in turns)):
        if sum(margin + blur * draw > 0 for margin, draw in zip(margins, draws, strict=True)) / len(pairs) <= accuracy:
            return blur
    raise UserError(f"reward.accuracy = {accuracy}: {len(pairs)} held-out pairs are too few to get there; raise reward.pairs")


def _margins(scorer: Scorer, pairs: Sequence[dict[str, Any]]) -> list[float]:
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (scorer(prompts, [pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    return [a - b for a, b in zip(chosen, rejected, strict=True)]
