"""What a run samples, scores and reads. Each process does its share of the rows and gets what all have found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.data.batch import Experience, Rollout
from vrpo.data.prompts import TOKENS
from vrpo.data.text import decode, encode
from vrpo.metrics.monte_carlo import MonteCarloCheck, monte_carlo_check
from vrpo.models.forward import policy_forward, read_logprobs
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
        self.sharding = updater.sharding
        self.policy, self.critic = updater.policy, updater.critic

    def sample(self, rows: Sequence[Row], seed: int) -> Rollout:
        """One response per row from the current policy."""
        prompts, mine = encode(self.tokenizer, [row["prompt"] for row in rows]), self.processes.share(len(rows))
        places, reply = range(mine.start, mine.stop), replies(self.environment, rows[mine])
        self.sampler.update(self.sharding.whole(self.policy), self.updater.policy_updates)
        with self.sharding.gathered(self.policy), self.autocast():
            part = converse(self.sampler, prompts[mine], reply, seed=seed, places=places)
            if not self.sampler.exact_logprobs:
                own = read_logprobs(self.policy, part, self.temperature, self.config.micro_batch_size)
                part = replace(part, logprobs=own, sampled_logprobs=part.logprobs)
        return Rollout.concatenate(self.processes.gather(part))

    def score(self, reward: Reward, rows: Sequence[Row], rollout: Rollout, step: int, samples: Sequence[int]) -> list[Score]:
        """One score per response (see `call_reward`). The reward is offered the policy's tokens too, as the column `completion_ids`."""
        mine = self.processes.share(len(rows))
        part = rollout[mine]
        tokens = [ids[mask].tolist() for ids, mask in zip(part.responses, part.response_mask, strict=True)]
        asked = [row | {TOKENS: ids} for row, ids in zip(rows[mine], tokens, strict=True)]
        texts = decode(self.tokenizer, part)
        parts = self.processes.gather(call_reward(reward, asked, texts, step, samples[mine], self.config.reward_timeout))
        return [score for part in parts for score in part]

    def said_of_scores(self, reward: Reward) -> dict[str, float]:
        """What a reward that has `metrics()` says there about the scores it gave last; the mean over the processes."""
        parts = self.processes.gather(reward.metrics() if hasattr(reward, "metrics") else {})
        found = {name: [part[name] for part in parts if name in part] for part in parts for name in part}
        return {name: sum(values) / len(values) for name, values in found.items()}

    @torch.no_grad()
    def read(self, experience: Experience, reference: bool) -> tuple[Experience, dict[str, float]]:
        """Add what the critic and, with `reference`, the reference say about a fresh rollout; the critic's metrics are returned too."""
        if self.critic is None and not reference:
            return experience, {}
        mine = experience[self.processes.share(len(experience))]
        own = self._asked(self.reference or self.policy, self._reference_logprobs, mine) if reference else {}
        if self.critic is not None:
            own |= self._asked(self.critic.model, self.critic.read, mine)
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

    def _asked(self, model: nn.Module, ask: Callable[[Experience], dict[str, Tensor]], rollout: Experience) -> dict[str, Tensor]:
        """What a model says about a rollout, [B, T, ...] each by name; nothing about one without rows."""
        found: dict[str, Tensor] = {}
        with self.sharding.gathered(model), self.autocast():
            for rows in rollout.micro_batches(self.config.micro_batch_size):
                for name, reading in ask(rollout[rows].trim().to(self.processes.device)).items():
                    whole = found.setdefault(name, torch.zeros(*rollout.responses.shape, *reading.shape[2:]))
                    whole[rows, : reading.shape[1]] = reading.float().cpu()
        return found

    def _reference_logprobs(self, micro: Experience) -> dict[str, Tensor]:
        with self.policy.disable_adapter() if self.reference is None else nullcontext():
            return {"reference_logprobs": policy_forward(self.reference or self.policy, micro, self.temperature).logprobs}

    def measure(self, rows: Sequence[Row], accuracy: Reward, step: int) -> dict[str, float]:
        """Mean score and length of one response to each held-out row."""
        rollout = self.sample(rows, derive_seed(self.seed, "validation"))
        scores = self.score(accuracy, rows, rollout, step, repeats(rows))
        require_scores(scores, "responses to the validation data")
        known = [score for score in totals(scores) if score is not None]
        return {"validation/accuracy": sum(known) / len(known), "validation/length": float(rollout.lengths.float().mean())}

    def check_critic(self, rows: Sequence[Row], reward: Reward, step: int) -> dict[str, float]:
        """The critic against Monte-Carlo values, in one state of a response to each row."""
        samples = self.config.monte_carlo_samples
        repeated, mine = [row for row in rows for _ in range(samples)], self.processes.share(len(rows))
        own = slice(mine.start * samples, mine.stop * samples)
        with self.sharding.gathered(self.policy, self.critic.model), self.autocast():
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
