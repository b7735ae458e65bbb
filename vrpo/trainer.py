"""The loop: rollout, score, advantages, update. PPO, GRPO and VRPO differ only in their `algorithms/` file.

Budget: `config.rollouts` counts every response a run samples for learning. A method with a critic spends
`critic.warmup_rollouts` of them on fitting the critic to the SFT policy before the policy moves; a method without one has
larger batches instead. So all methods are matched in total rollouts *and* in policy updates.

All randomness is drawn by key (`vrpo.seeding`), so a run stopped after any iteration goes on bit for bit.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrpo.algorithms.grpo import GRPO
from vrpo.algorithms.ppo import PPO
from vrpo.algorithms.vrpo import VRPO
from vrpo.checkpoint import load_checkpoint, pack, save_checkpoint, unpack, weights_digest
from vrpo.config import GenerationConfig, TrainConfig, UserError
from vrpo.critic import ValueModel, backbone_states, response_states
from vrpo.diagnostics import HealthWarning, health_warnings, latent_metrics, monte_carlo_check
from vrpo.forward import policy_forward
from vrpo.generation import decode, encode, generate, generation_settings
from vrpo.losses import kl_k1
from vrpo.masking import masked_whiten
from vrpo.objective import policy_terms
from vrpo.scoring import Reward, call_reward, experience_metrics, new_experience
from vrpo.seeding import derive_seed, generator, stream
from vrpo.timing import Timer
from vrpo.types import Experience, Rollout

logger = logging.getLogger(__name__)

ALGORITHMS = {"ppo": PPO, "grpo": GRPO, "vrpo": VRPO}

Row = dict[str, Any]


class Trainer:
    """Train a policy on an observed reward.

    Args:
        config: the run's parameters.
        policy: causal LM, trained in place.
        tokenizer: its tokenizer; prompts are encoded without special tokens.
        problems: training rows, each with a `prompt` and any other columns.
        reward: `(prompts, responses, **columns) -> list[float | None]`, the observed reward. `columns` are the rows' other
            columns, `step` (the iteration) and `samples` (index of each response among those to its prompt). None means that
            a response could not be scored: it is left out of every loss and counted.
        method: "ppo", "grpo" or "vrpo".
        seed: of everything random in the run.
        generation: how responses are sampled.
        clean_reward: same signature, for measurement only; None where no clean reward is known.
        validation: held-out rows, measured with `clean_reward` (or `reward`).
        checkpoint: file that holds the run's state between iterations; None: no checkpoints.
        on_log: called with each iteration's row of metrics.
        on_resume: called once with the rows so far when a run goes on from its checkpoint.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: nn.Module,
        tokenizer: Any,
        problems: Sequence[Row],
        reward: Reward,
        *,
        method: str = "vrpo",
        seed: int = 0,
        generation: GenerationConfig | None = None,
        clean_reward: Reward | None = None,
        validation: Sequence[Row] = (),
        checkpoint: Path | None = None,
        on_log: Callable[[dict[str, float]], None] = lambda row: None,
        on_resume: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    ) -> None:
        if not problems:
            raise UserError("the training data is empty: at least one prompt is needed")
        self.config, self.policy, self.tokenizer, self.seed = config, policy, tokenizer, seed
        self.generation = generation or GenerationConfig()
        self.problems, self.validation = list(problems), list(validation)
        self.reward, self.clean_reward = reward, clean_reward
        self.checkpoint, self.on_log, self.on_resume = checkpoint, on_log, on_resume
        self.reference = copy.deepcopy(policy).eval().requires_grad_(False)
        self.algorithm = ALGORITHMS[method](config, policy, derive_seed(seed, "critic"))
        self.critic: ValueModel | None = self.algorithm.critic
        self.shared = self.critic is not None and config.critic.backbone == "shared"
        group = self.algorithm.group_size
        self.prompts_per_iteration = (config.rollouts - self.algorithm.warmup_rollouts) // config.iterations // group
        self.models = nn.ModuleDict({"policy": policy})
        self.optimizers = {"policy": torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=0.0)}
        if self.critic is not None:
            self.models["critic"] = self.critic
            policy_parameters = set(map(id, policy.parameters()))
            own = [p for p in self.critic.parameters() if p.requires_grad and id(p) not in policy_parameters]
            self.optimizers["critic"] = torch.optim.AdamW(own, lr=config.critic.learning_rate, weight_decay=0.0)
        self.iteration = -1  # the last one finished; 0 is the value warm-up
        self.rollouts = 0
        self.policy_updates = 0
        self.log: list[dict[str, float]] = []
        self.health: list[HealthWarning] = []
        self.timer = Timer()
        self.fingerprint = {
            "config": config.model_dump(exclude={"checkpoint_every"}),
            "generation": self.generation.model_dump(exclude={"batch_size"}),
            "method": method,
            "seed": seed,
            "data": sha256(repr([self.problems, self.validation]).encode()).hexdigest()[:16],
            "policy": weights_digest(policy),
        }

    def run(self) -> list[dict[str, float]]:
        """Train to the end, from the checkpoint if there is one. Returns the log."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self.resume()
        while self.iteration < self.config.iterations:
            torch.manual_seed(derive_seed(self.seed, self.iteration + 1, "global"))  # dropout, if the model has any
            row = self.warm_up() if self.iteration < 0 else self.step(self.iteration + 1)
            self.iteration += 1
            self._finish_iteration(row)
        return self.log

    def warm_up(self) -> dict[str, float]:
        """Iteration 0: fit the critic to rollouts of the initial policy, which stays as it is; then measure both."""
        row: dict[str, float] = {}
        count = self.algorithm.warmup_rollouts
        if self.critic is not None and count:
            rows = stream(self.problems, 0, count, self.seed, "warmup")
            experience, row = self.collect(rows, [0] * count, iteration=0)
            size = max(1, self.prompts_per_iteration // self.config.minibatches)
            row |= self.update(
                experience, 0, steps=math.ceil(count / size), policy_epochs=0, critic_epochs=self.config.critic.warmup_epochs
            )
        return row | self.measure(critic=True)

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration: sample, score, estimate advantages, update critic and policy."""
        group = self.algorithm.group_size
        start = (iteration - 1) * self.prompts_per_iteration
        prompts = stream(self.problems, start, self.prompts_per_iteration, self.seed, "train")
        rows = [row for row in prompts for _ in range(group)]
        experience, metrics = self.collect(rows, list(range(group)) * len(prompts), iteration)
        warm = min(1.0, iteration / max(self.config.lr_warmup, 1))
        self.optimizers["policy"].param_groups[0]["lr"] = self.config.learning_rate * warm
        critic_epochs = self.config.critic.epochs if self.critic is not None else 0
        metrics |= self.update(
            experience, iteration, steps=self.config.minibatches, policy_epochs=self.config.epochs, critic_epochs=critic_epochs
        )
        last = iteration == self.config.iterations
        if last or iteration % self.config.measure_every == 0:
            metrics |= self.measure(critic=last)
        return metrics

    def _finish_iteration(self, row: dict[str, float]) -> None:
        row = {"iteration": self.iteration, "rollouts": self.rollouts} | row
        if self.log and "length/mean" in row:
            first = next((r["length/mean"] for r in self.log if "length/mean" in r), row["length/mean"])
            row["length/inflation"] = row["length/mean"] / max(first, 1e-9)
        self.log.append({key: value for key, value in row.items() if math.isfinite(value)})
        for warning in health_warnings(self.log):
            if warning.check not in {known.check for known in self.health}:  # each signature speaks once a run
                self.health.append(warning)
                logger.warning("%s, iteration %d: %s", warning.check, warning.iteration, warning.message)
        if self.checkpoint is not None and (self.iteration % self.config.checkpoint_every == 0 or self.iteration == self.config.iterations):
            self.save()
        self.on_log(self.log[-1])

    def collect(self, rows: Sequence[Row], samples: Sequence[int], iteration: int) -> tuple[Experience, dict[str, float]]:
        """Sample one response per row, score it, and estimate advantages. Returns the experience and its metrics."""
        with self.timer("rollout") as elapsed:
            rollout = self.sample(rows, derive_seed(self.seed, iteration, "rollout"))
        self.rollouts += len(rows)
        with self.timer("reward"):
            texts = decode(self.tokenizer, rollout)
            observed = call_reward(self.reward, rows, texts, iteration, samples)
            clean = call_reward(self.clean_reward, rows, texts, iteration, samples) if self.clean_reward else None
        scores, scored = torch.tensor([score or 0.0 for score in observed]), torch.tensor([score is not None for score in observed])
        with self.timer("values"):
            experience, readings = self.read(new_experience(rollout, scores, scored))
        if self.config.kl_coefficient and self.config.kl_in == "reward":
            penalty = kl_k1(experience.logprobs, experience.reference_logprobs) * experience.response_mask
            experience = replace(experience, rewards=experience.rewards - self.config.kl_coefficient * penalty)
        metrics = experience_metrics(experience, observed, clean, self.algorithm.estimate)
        metrics |= latent_metrics(readings, experience.response_mask)
        metrics["length/mean"] = float(rollout.lengths.float().mean())
        metrics["tokens_per_second"] = float(rollout.response_mask.sum()) / max(elapsed.seconds, 1e-9)
        advantages, returns = self.algorithm.estimate(experience, experience.rewards)
        if self.critic is not None:  # GRPO's advantages are already normalised, within their groups
            advantages = masked_whiten(advantages, experience.response_mask)
        return replace(experience, advantages=advantages, returns=returns), metrics

    def sample(self, rows: Sequence[Row], seed: int) -> Rollout:
        """One response per row from the current policy."""
        prompts = encode(self.tokenizer, [row["prompt"] for row in rows])
        return generate(self.policy, prompts, seed=seed, **generation_settings(self.policy, self.tokenizer, self.generation))

    @torch.no_grad()
    def read(self, experience: Experience) -> tuple[Experience, dict[str, Tensor]]:
        """Add the reference's log-probabilities and the critic's readings of a fresh rollout; the readings are returned too."""
        reference = torch.zeros_like(experience.logprobs)
        readings: dict[str, Tensor] = {}
        for start in range(0, len(experience), self.config.micro_batch_size):
            rows = slice(start, start + self.config.micro_batch_size)
            micro = experience[rows].trim().to(self.policy.device)
            width = micro.responses.shape[1]
            reference[rows, :width] = policy_forward(self.reference, micro, self.generation.temperature).logprobs.cpu()
            if self.critic is not None:
                for name, reading in self.algorithm.read(micro, self._critic_states(micro)).items():
                    whole = readings.setdefault(name, torch.zeros(*reference.shape, *reading.shape[2:]))
                    whole[rows, :width] = reading.float().cpu()
        mask = experience.response_mask
        for whole in (reference, *readings.values()):
            whole[~mask] = 0.0
        experience = replace(experience, reference_logprobs=reference)
        return (experience if self.critic is None else self.algorithm.annotate(experience, readings)), readings

    def _critic_states(self, batch: Experience) -> Tensor:
        hidden = backbone_states(self.critic.backbone, batch.input_ids, batch.attention_mask)
        return response_states(hidden, batch.responses.shape[1])

    def update(self, experience: Experience, iteration: int, *, steps: int, policy_epochs: int, critic_epochs: int) -> dict[str, float]:
        """Minibatch passes over an experience; returns the mean of every loss and norm over the optimiser steps."""
        totals: dict[str, list[float]] = {}
        self.policy.train()
        with self.timer("update"):
            for epoch in range(max(policy_epochs, critic_epochs)):
                order = torch.randperm(len(experience), generator=generator(self.seed, iteration, epoch, "order"))
                train_policy, train_critic = epoch < policy_epochs, epoch < critic_epochs
                if train_critic and len(self.critic.head.encoders):
                    experience = replace(experience, latent_noise=self._latent_noise(experience, iteration, epoch))
                for rows in order.tensor_split(steps):
                    self.policy_updates += train_policy
                    metrics = self.optimizer_step(experience[rows], iteration, train_policy, train_critic)
                    for key, value in metrics.items():
                        totals.setdefault(key, []).append(value)
        return {key: sum(values) / len(values) for key, values in totals.items()}

    def optimizer_step(self, batch: Experience, iteration: int, train_policy: bool, train_critic: bool) -> dict[str, float]:
        """One step of the policy's and the critic's optimiser on `batch`, whatever the micro-batches it is split into."""
        batch = batch.blank_padding()
        masks = ("response_mask", "entropy_mask", "surprisal_mask")
        counts = {name: mask.sum() for name in masks if (mask := getattr(batch, name)) is not None}
        metrics: dict[str, float] = {}
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        for start in range(0, len(batch), self.config.micro_batch_size):
            micro = batch[start : start + self.config.micro_batch_size].trim().to(self.policy.device)
            terms, shares = self._loss_terms(micro, counts, train_policy, train_critic)
            sum(terms.values()).backward()
            for name, share in (shares | {name: term.item() for name, term in terms.items()}).items():
                metrics[name] = metrics.get(name, 0.0) + share
        for name in ["policy"] * train_policy + ["critic"] * train_critic:
            optimizer = self.optimizers[name]
            norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], self.config.max_grad_norm).item()
            if not math.isfinite(norm):
                losses = ", ".join(f"{key} = {value:.4g}" for key, value in metrics.items())
                rate = "train.learning_rate" if name == "policy" else "train.critic.learning_rate"
                raise UserError(
                    f"the {name}'s gradient is {norm} in iteration {iteration} ({losses}); lower {rate} (the last checkpoint is kept)"
                )
            optimizer.step()
            metrics[f"{name}/grad_norm"] = norm
        return metrics

    def _loss_terms(
        self, micro: Experience, counts: dict[str, Tensor], train_policy: bool, train_critic: bool
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        terms: dict[str, Tensor] = {}
        metrics: dict[str, float] = {}
        hidden = None
        if train_policy:
            need_hidden = self.shared and train_critic
            count = counts["response_mask"]
            terms, metrics, hidden = policy_terms(self.policy, micro, self.config, self.generation.temperature, count, need_hidden)
        if train_critic:
            if hidden is None:
                # Where the backbone is shared, the policy rests now: only the head learns, and no backward through the backbone is paid.
                with torch.set_grad_enabled(not self.shared):
                    hidden = self._critic_states(micro)
            for name, term in self.algorithm.value_terms(micro, hidden, counts).items():
                terms[f"critic/{name}"] = self.config.critic.loss_weight * term
        return terms, metrics

    def _latent_noise(self, experience: Experience, iteration: int, epoch: int) -> Tensor:
        head = self.critic.head
        shape = (*experience.response_mask.shape, len(head.encoders), self.critic.settings["latent_size"])
        return torch.randn(shape, generator=generator(self.seed, iteration, epoch, "latent"))

    def measure(self, critic: bool) -> dict[str, float]:
        """Held-out accuracy of the policy and, with `critic`, the critic's correlation with Monte-Carlo values."""
        if not self.validation:
            return {}
        reward, step = self.clean_reward or self.reward, self.iteration + 1
        with self.timer("measure"):
            rollout = self.sample(self.validation, derive_seed(self.seed, "validation"))
            scores = call_reward(reward, self.validation, decode(self.tokenizer, rollout), step, [0] * len(rollout))
            known = [score for score in scores if score is not None]
            metrics = {"validation/accuracy": sum(known) / max(len(known), 1), "validation/length": float(rollout.lengths.float().mean())}
            rows, samples = self.validation[: self.config.monte_carlo_prefixes], self.config.monte_carlo_samples
            if not critic or self.critic is None or not rows:
                return metrics
            repeated = [row for row in rows for _ in range(samples)]
            check = monte_carlo_check(
                self.policy,
                self.critic,
                encode(self.tokenizer, [row["prompt"] for row in rows]),
                lambda responses: call_reward(
                    reward,
                    repeated,
                    self.tokenizer.batch_decode(responses, skip_special_tokens=True),
                    step,
                    list(range(samples)) * len(rows),
                ),
                samples=samples,
                seed=derive_seed(self.seed, step, "monte carlo"),
                **generation_settings(self.policy, self.tokenizer, self.generation),
            )
        return metrics | {"critic/corr_mc": check.correlation, "critic/mse_mc": check.mean_squared_error}

    def save(self) -> None:
        """Write the checkpoint."""
        meta = {name: getattr(self, name) for name in ("fingerprint", "iteration", "rollouts", "policy_updates", "log")}
        meta |= {"health": [asdict(warning) for warning in self.health], "seconds": self.timer.seconds}
        save_checkpoint(self.checkpoint, pack(self.models, self.optimizers), meta)

    def resume(self) -> None:
        """Continue from the checkpoint (see `load_checkpoint` for what it refuses)."""
        tensors, meta = load_checkpoint(self.checkpoint, self.fingerprint)
        unpack(tensors, self.models, self.optimizers)
        self.iteration, self.rollouts, self.policy_updates = meta["iteration"], meta["rollouts"], meta["policy_updates"]
        self.log, self.timer.seconds = meta["log"], meta["seconds"]
        self.health = [HealthWarning(**warning) for warning in meta["health"]]
        self.on_resume(self.log)
