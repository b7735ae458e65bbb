"""What everything that needs responses asks for: a sampler, which an engine of `vrpo/rollout/engines/` is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from vrpo.config import GenerationConfig
from vrpo.data.batch import Rollout
from vrpo.data.text import end_tokens
from vrpo.kinds import find


class Sampler:
    """Samples responses of one turn from a model; `vrpo.rollout.conversation.converse` makes dialogues of them.

    Args:
        model: causal LM on its device. A trainer's is trained on: what holds weights of its own takes new ones in `update`.
        tokenizer: its tokenizer.
        generation: how responses are sampled.

    Attributes:
        exact_logprobs: whether `Rollout.logprobs` are those that the model itself gives in a forward pass, up to float32's rounding. Where
            they are not (another precision, other kernels), the trainer reads them again: ratios to them must be 1 before a step.
        ends, pad: ids of the tokens that end a response, each part of it, and of padding.
    """

    exact_logprobs = True

    def __init__(self, model: Any, tokenizer: Any, generation: GenerationConfig) -> None:
        self.model, self.tokenizer, self.generation = model, tokenizer, generation
        self.ends = end_tokens(model, tokenizer)
        self.pad = self.ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def sample(
        self, prompts: Sequence[Sequence[int]], *, seed: int, places: Sequence[int] | None = None, limits: Sequence[int] | None = None
    ) -> Rollout:
        """One response per prompt, of at most `generation.max_new_tokens` tokens; one that is cut there has no end.

        A response depends on its prompt, the seed and its place, not on the rows beside it: batch sizes, processes and dialogues that are
        over change no sample. An engine that cannot keep this says so in its docstring: its runs are then no longer the same each time.

        Args:
            prompts: B lists of token ids, none empty.
            seed: fixes the samples.
            places: of the prompts in the batch that `seed` fixes, when others are sampled elsewhere (in another process, or not at all
                because their dialogue is over); by default 0 ... B - 1.
            limits: longest response to each prompt, 1 ... `max_new_tokens`, where they differ.

        Returns:
            Rollout on the CPU, T = the longest response, with log-probabilities at the sampling temperature.
        """
        raise NotImplementedError

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """The trainer's word, before it samples, that `model` has the weights of this version now; other versions had others.

        `weights` gives them by the names of a saved model, adapters folded in, and costs nothing until it is read. What samples from `model`
        itself has nothing to do.
        """

    def close(self) -> None:
        """Free what the engine holds outside of this process; the next sample takes it up again."""


def new_sampler(model: Any, tokenizer: Any, generation: GenerationConfig) -> Sampler:
    """The engine that `generation.engine` names, on this model."""
    return find("rollout.engines", generation.engine, "generation.engine")(model, tokenizer, generation)
