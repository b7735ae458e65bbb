"""What a run samples, scores and reads. Each process does its share of the rows and gets what all have found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.data.batch import Experience, Rollout
from vrpo.data.text import decode, encode
from vrpo.metrics.monte_carlo import MonteCarloCheck, monte_carlo_check
from vrpo.models.forward import policy_forward, read_logprobs
from vrpo.models.lora import without_lora
from vrpo.rewards.calling import Reward, Score, call_reward, require_scores, totals
from vrpo.rewards.experience import repeats
from vrpo.rollout.conversation import Environment, converse, replies
from vrpo.rollout.sampler import Sampler
from vrpo.seeding import derive_seed
from vrpo.training.updater import Updater

Row = dict[str, Any]


class Collector:
    """Asks the current policy for responses, a reward for their scores, and the models for what they say about them.

    Args:
        updater: of the policy and the critic, which are asked at its precision.
        reference: the policy before training; None: the policy without its adapters.
        sampler: of the policy.
        environment: see `vrpo.training.trainer.Trainer`.
    """

    def __init__(self, updater: Updater, reference: nn.Module | None, sampler: Sampler, environment: Environment | None) -> None:
        self.updater, self.reference, self.sampler, self.environment = updater, reference, sampler, environment
        self.tokenizer, self.temperature = sampler.tokenizer, sampler.generation.temperature
        self.config, self.seed, self.processes, self.autocast = updater.config, updater.seed, updater.processes, updater.autocast
        self.policy, self.critic = updater.policy, updater.critic

    def sample(self, rows: Sequence[Row], seed: int) -> Rollout:
        """One response per row from the current policy."""
        prompts, mine = encode(self.tokenizer, [row["prompt"] for row in rows]), self.processes.share(len(rows))
        places, reply = range(mine.start, mine.stop), replies(self.environment, rows[mine])
        self.sampler.update(self._weights(), self.updater.policy_updates)
        with self.autocast():
            part = converse(self.sampler, prompts[mine], reply, seed=seed, places=places)
            if not self.sampler.exact_logprobs:
                own = read_logprobs(self.policy, part, self.temperature, self.config.micro_batch_size)
                part = replace(part, logprobs=own, sampled_logprobs=part.logprobs)
        return Rollout.concatenate(self.processes.gather(part))

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from without_lora(self.policy).state_dict().items()

    def score(self, reward: Reward, rows: Sequence[Row], texts: Sequence[str], step: int, samples: Sequence[int]) -> list[Score]:
        """One score per response (see `call_reward`)."""
        mine = self.processes.share(len(rows))
        parts = self.processes.gather(call_reward(reward, rows[mine], texts[mine], step, samples[mine], self.config.reward_timeout))
        return [score for part in parts for score in part]

    @torch.no_grad()
    def read(self, experience: Experience, reference: bool) -> tuple[Experience, dict[str, float]]:
        """Add what the critic and, with `reference`, the reference say about a fresh rollout; the critic's metrics are returned too."""
        if self.critic is None and not reference:
            return experience, {}
        mine = experience[self.processes.share(len(experience))]
        own: dict[str, Tensor] = {}
        for rows in mine.micro_batches(self.config.micro_batch_size):
            micro = mine[rows].trim().to(self.processes.device)
            with self.autocast():
                found = {"reference_logprobs": self._reference_logprobs(micro)} if reference else {}
                if self.critic is not None:
                    found |= self.critic.read(micro)
            for name, reading in found.items():
                whole = own.setdefault(name, torch.zeros(*mine.responses.shape, *reading.shape[2:]))
                whole[rows, : reading.shape[1]] = reading.float().cpu()
        parts = self.processes.gather(own)
        readings = {name: torch.cat([part[name] for part in parts if part]) for name in max(parts, key=len)}
        for whole in readings.values():
            whole[~experience.response_mask] = 0.0
        if reference:
            experience = replace(experience, reference_logprobs=readings.pop("reference_logprobs"))
        if self.critic is None:
            return experience, {}
        experience = self.critic.annotate(experience, readings)
        return experience, {f"critic/{name}": value for name, value in self.critic.metrics(experience, readings).items()}

    def _reference_logprobs(self, micro: Experience) -> Tensor:
        with self.policy.disable_adapter() if self.reference is None else nullcontext():
            return policy_forward(self.reference or self.policy, micro, self.temperature).logprobs

    def measure(self, rows: Sequence[Row], accuracy: Reward, step: int) -> dict[str, float]:
        """Mean score and length of one response to each held-out row."""
        rollout = self.sample(rows, derive_seed(self.seed, "validation"))
        scores = self.score(accuracy, rows, decode(self.tokenizer, rollout), step, repeats(rows))
        require_scores(scores, "responses to the validation data")
        known = [score for score in totals(scores) if score is not None]
        return {"validation/accuracy": sum(known) / len(known), "validation/length": float(rollout.lengths.float().mean())}

    def check_critic(self, rows: Sequence[Row], reward: Reward, step: int) -> dict[str, float]:
        """The critic against Monte-Carlo values, in one state of a response to each row."""
        samples = self.config.monte_carlo_samples
        repeated, mine = [row for row in rows for _ in range(samples)], self.processes.share(len(rows))
        own = slice(mine.start * samples, mine.stop * samples)
        with self.autocast():
            part = monte_carlo_check(
                self.sampler,
                self.critic.model,
                encode(self.tokenizer, [row["prompt"] for row in rows[mine]]),
                lambda texts: call_reward(reward, repeated[own], texts, step, repeats(repeated)[own], self.config.reward_timeout),
                samples=samples,
                seed=derive_seed(self.seed, step, "monte carlo"),
                reply=replies(self.environment, rows[mine]),
                places=range(mine.start, mine.stop),
                gamma=self.config.gamma,
            )
        check = MonteCarloCheck.concatenate(self.processes.gather(part))
        return {"critic/corr_mc": check.correlation, "critic/mse_mc": check.mean_squared_error, "critic/slope_mc": check.slope}
