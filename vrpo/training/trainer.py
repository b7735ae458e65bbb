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
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vrpo.algorithms.base import find_algorithm
from vrpo.config import GenerationConfig, Precision, RuntimeConfig, TrainConfig
from vrpo.data.batch import Experience, Rollout
from vrpo.data.prompts import prompt_rows
from vrpo.data.text import encode
from vrpo.errors import UserError, shown
from vrpo.files import present, sole_writer
from vrpo.metrics.health import HealthWarning, finite_metrics, health_metrics, health_warnings
from vrpo.metrics.rollout import experience_metrics
from vrpo.models.loading import load_policy, refuse_non_finite, save_model
from vrpo.models.lora import add_lora, without_lora
from vrpo.models.recompute import recompute_layers
from vrpo.rewards.calling import Reward
from vrpo.rewards.experience import new_experience, repeats
from vrpo.rollout.conversation import Environment
from vrpo.rollout.engines.transformers import check_model
from vrpo.rollout.sampler import new_sampler
from vrpo.seeding import derive_seed, stream
from vrpo.timing import Timer
from vrpo.training.checkpoint import layout, pack, unpack
from vrpo.training.collector import Collector, Row
from vrpo.training.identity import code_digest, fingerprint
from vrpo.training.preflight import check_run
from vrpo.training.processes import Processes
from vrpo.training.saved import check_saved
from vrpo.training.sharding import new_sharding
from vrpo.training.updater import Updater, WarmUp

logger = logging.getLogger(__name__)


class Trainer:
    """Train a policy on an observed reward.

    Args:
        config: the run's parameters.
        policy: causal LM, trained in place, or a folder or hub id to load one from.
        tokenizer: its tokenizer; may be None where the policy is loaded. Prompts are encoded without special tokens.
        problems: training rows, each with a `prompt`, text or conversation, and any other columns (see `prompt_rows`).
        reward: `(prompts, responses, **columns) -> list[float | None]`, the observed reward, with as many of the columns as it
            takes (see `vrpo.rewards.calling`, TRL's functions too). None means that a response could not be scored: it is left
            out of every loss and counted. For a dialogue a score may be a list, one number for each of the policy's turns: each is
            earned at the end of its turn.
        method: the algorithm `vrpo/algorithms/<method>.py`.
        seed: of everything random in the run.
        generation: how responses are sampled.
        precision: of forward passes; the weights keep the type they have.
        clean_reward: same signature, for measurement only; None where no clean reward is known.
        accuracy: same signature, what `validation/accuracy` is the mean of; by default `clean_reward` (or `reward`).
        environment: answers the policy's turns and makes responses dialogues (see `vrpo.rollout.conversation`); rewards then get the policy's
            turns joined by `vrpo.data.prompts.TURN_SEPARATOR`. None: one turn, one response.
        validation: held-out rows, measured with `accuracy`; the critic's Monte-Carlo check on them uses `clean_reward` (or `reward`).
        checkpoint: file that holds the run's state between iterations, a folder where weights are sharded; None: no checkpoints.
        on_log: called with each iteration's row of metrics.
        on_resume: called once with the rows so far when a run goes on from its checkpoint.
        proceed: asked in every process before each iteration, with its number; False ends the run there. A later `run` goes on.

    With several processes (`accelerate launch`) each samples and scores its share of the responses; only the main one calls `on_log` and
    `on_resume` and, unless weights are sharded, writes checkpoints (see `vrpo.training.sharding`).

    Raises:
        UserError: policy, tokenizer, data and rewards do not fit each other (see `check_run`), before anything is copied.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: nn.Module | str | Path,
        tokenizer: Any,
        problems: Iterable[Any],
        reward: Reward,
        *,
        method: str = "vrpo",
        seed: int = 0,
        generation: GenerationConfig | None = None,
        precision: Precision = "float32",
        clean_reward: Reward | None = None,
        accuracy: Reward | None = None,
        environment: Environment | None = None,
        validation: Iterable[Any] = (),
        checkpoint: Path | None = None,
        on_log: Callable[[dict[str, float]], None] = lambda row: None,
        on_resume: Callable[[list[dict[str, float]]], None] = lambda rows: None,
        proceed: Callable[[int], bool] = lambda iteration: True,
    ) -> None:
        algorithm = find_algorithm(method, config)
        if isinstance(policy, str | Path):
            policy, own_tokenizer = load_policy(policy, RuntimeConfig())
            tokenizer = tokenizer or own_tokenizer
        elif not isinstance(policy, nn.Module):
            raise UserError(f"policy: {shown(policy)} is no model; give a causal language model, a model's folder or a hub id")
        refuse_non_finite(policy, "the policy")
        check_model(policy, config.gradient_checkpointing)
        self.config, self.tokenizer, self.seed, self.generation = config, tokenizer, seed, generation or GenerationConfig()
        self.problems, self.validation = prompt_rows(problems, tokenizer), prompt_rows(validation, tokenizer, "validation data", none=True)
        self.reward, self.clean_reward, self.accuracy = reward, clean_reward, accuracy or clean_reward or reward
        check_run(policy, tokenizer, self.problems, self.validation, self.generation, environment, reward, clean_reward)
        self.checkpoint, self.on_log, self.on_resume, self.proceed = checkpoint, on_log, on_resume, proceed
        rows = {"training": self.problems, "validation": self.validation}
        tokens = encode(tokenizer, [row["prompt"] for part in rows.values() for row in part])
        self.fingerprint = fingerprint(config, self.generation, rows, tokens, policy, precision=precision, method=method, seed=seed)
        self.processes = Processes(policy.device)
        self.sharding = new_sharding(config, precision, self.processes)
        policy.to(self.sharding.nursery)
        self.algorithm = algorithm(config, policy, derive_seed(seed, "critic"))
        self.critic = self.algorithm.critic and self.algorithm.critic.model
        self.prompts_per_iteration = (config.rollouts - self.algorithm.warmup_rollouts) // config.iterations // self.algorithm.group_size
        if config.gradient_checkpointing:
            for model in (policy, *([self.critic.backbone] if self.critic else ())):
                recompute_layers(model)
        self.policy, self.reference = policy, None
        if config.lora is None:
            self.reference = copy.deepcopy(policy).eval().requires_grad_(False)
            if self.algorithm.critic is not None:
                self.algorithm.critic.share(self.reference)
        else:  # the reference is the policy without its adapters
            self.policy = add_lora(policy, config.lora, derive_seed(seed, "lora"))
            if self.critic is not None and config.critic.backbone == "separate" and self.critic.backbone_learns:
                self.critic.backbone = add_lora(self.critic.backbone, config.lora, derive_seed(seed, "critic lora"))
        self.sharding.place(self.policy, self.reference, self.critic)
        self.updater = Updater(
            self.policy,
            self.algorithm,
            temperature=self.generation.temperature,
            max_new_tokens=self.generation.max_new_tokens * (1 if environment is None else self.generation.max_turns),
            seed=seed,
            precision=precision,
            sharding=self.sharding,
        )
        self.collector = Collector(self.updater, self.reference, new_sampler(self.policy, tokenizer, self.generation), environment)
        self.iteration = -1  # the last one finished; 0 is the value warm-up
        self.under_way: WarmUp | None = None
        self.rollouts = 0
        self.log: list[dict[str, float]] = []
        self.health: list[HealthWarning] = []
        self.timer = Timer()

    def run(self) -> list[dict[str, float]]:
        """Train to the end, or until `proceed` says so, from the checkpoint if there is one. Returns the log."""
        lock = sole_writer(self.checkpoint) if self.checkpoint is not None and self.processes.is_main else nullcontext()
        with lock, closing(self.collector.sampler):
            if self.checkpoint is not None and present(self.checkpoint).exists():
                self.resume()
            while self.iteration < self.config.iterations and self.proceed(self.iteration + 1):
                torch.manual_seed(derive_seed(self.seed, self.iteration + 1, "global"))  # of whatever draws from it: a user's reward, say
                row = self.warm_up() if self.iteration < 0 else self.step(self.iteration + 1)
                self.iteration += 1
                self._finish_iteration(row)
        if self.iteration == self.config.iterations:
            self.updater.require_steps()
        return self.log

    def warm_up(self) -> dict[str, float]:
        """Iteration 0: fit the critic to rollouts of the initial policy, which stays as it is; then measure both."""
        row: dict[str, float] = {}
        if count := self.algorithm.warmup_rollouts:
            if self.under_way is None:
                rows = stream(self.problems, 0, count, self.seed, "warmup")
                self.under_way = WarmUp(*self.collect(rows, repeats(rows), iteration=0))
                self.rollouts += count
                self.save()
            size = max(1, self.prompts_per_iteration * self.algorithm.group_size // self.config.minibatches)
            passes = {"steps": math.ceil(count / size), "policy_epochs": 0, "critic_epochs": self.config.critic.warmup_epochs}
            done = self.under_way
            row = done.row | self.update(done.experience, 0, **passes, progress=done.progress, on_epoch=self.save)
            if not done.absorbed:  # by a call that was interrupted while it measured
                self.observe(self.algorithm.absorb(done.experience))
                done.absorbed = True
        row |= self.measure(critic=True)
        self.under_way = None
        return row

    def step(self, iteration: int) -> dict[str, float]:
        """One iteration: sample, score, estimate advantages, update critic and policy."""
        count = self.prompts_per_iteration
        prompts = stream(self.problems, (iteration - 1) * count, count, self.seed, "train")
        rows = [row for row in prompts for _ in range(self.algorithm.group_size)]
        experience, metrics = self.collect(rows, repeats(rows), iteration)
        self.rollouts += len(rows)
        warm = min(1.0, iteration / max(self.config.lr_warmup, 1))
        self.updater.optimizers["policy"].param_groups[0]["lr"] = self.config.learning_rate * warm
        passes = {"policy_epochs": self.config.epochs, "critic_epochs": self.config.critic.epochs if self.critic else 0}
        self.observe(experience)
        metrics |= self.update(experience, iteration, steps=self.config.minibatches, **passes)
        self.algorithm.absorb(experience)
        if self._measured(iteration):
            metrics |= self.measure(critic=iteration == self.config.iterations)
        return metrics

    def _measured(self, iteration: int) -> bool:
        return iteration == self.config.iterations or iteration % self.config.measure_every == 0

    def _finish_iteration(self, row: dict[str, float]) -> None:
        row = {"iteration": self.iteration, "rollouts": self.rollouts} | row
        if self.log and "length/mean" in row:
            first = next((r["length/mean"] for r in self.log if "length/mean" in r), row["length/mean"])
            row["length/inflation"] = row["length/mean"] / max(first, 1e-9)
        warnings = health_warnings([*self.log, row])
        self.log.append(finite_metrics(row) | health_metrics(warnings))
        for warning in warnings:
            if warning.check not in {known.check for known in self.health}:  # each signature speaks once a run
                self.health.append(warning)
                logger.warning("%s, iteration %d: %s", warning.check, warning.iteration, warning.message)
        if self.iteration % self.config.checkpoint_every == 0 or self.iteration == self.config.iterations:
            self.save()
        if self.processes.is_main:
            self.on_log(self.log[-1])

    def collect(self, rows: Sequence[Row], samples: Sequence[int], iteration: int) -> tuple[Experience, dict[str, float]]:
        """Sample one response per row, score it, and estimate advantages; learns and counts nothing.

        Returns what is to be learned from, and metrics of all responses.
        """
        with self.timer("rollout") as elapsed:
            rollout = self.collector.sample(rows, derive_seed(self.seed, iteration, "rollout"))
        with self.timer("reward"):
            given = self.collector.score(self.reward, rows, rollout, iteration, samples)
            said = self.collector.said_of_scores(self.reward)
            clean = self.collector.score(self.clean_reward, rows, rollout, iteration, samples) if self.clean_reward else None
        with self.timer("values"):
            reference = self.config.kl_coefficient > 0 or self._measured(iteration)  # without KL control for the log alone
            experience, found = self.collector.read(new_experience(rollout, given), reference)
        experience = replace(experience, rewards=experience.rewards - self.algorithm.penalty(experience))
        metrics = (
            found
            | said
            | self.algorithm.metrics(experience)
            | experience_metrics(experience, given, clean, self.algorithm.advantages, self.config.gamma)
        )
        metrics["length/mean"] = float(rollout.lengths.float().mean())
        metrics["tokens_per_second"] = float(rollout.response_mask.sum()) / max(elapsed.seconds, 1e-9)
        advantages, returns = self.algorithm.advantages(experience, experience.rewards)
        experience = replace(experience, advantages=advantages, returns=returns)
        if iteration:  # the value warm-up has no groups
            experience = self.algorithm.filtered(experience)
        return replace(experience, advantages=self.algorithm.normalised(experience.advantages, experience.response_mask)), metrics

    def sample(self, rows: Sequence[Row], seed: int) -> Rollout:
        """One response per row from the current policy."""
        return self.collector.sample(rows, seed)

    def observe(self, experience: Experience) -> None:
        """Let the algorithm look at a batch before its step (see `Algorithm.observe`)."""
        with self.timer("update"):
            self.algorithm.observe(experience, self.updater.policy_gradient)

    def update(self, experience: Experience, iteration: int, **passes: Any) -> dict[str, float]:
        """Minibatch passes over an experience (see `Updater.update`)."""
        with self.timer("update"):
            return self.updater.update(experience, iteration, **passes)

    @property
    def policy_updates(self) -> int:
        """Optimiser steps of the policy so far."""
        return self.updater.policy_updates

    def measure(self, critic: bool) -> dict[str, float]:
        """Held-out accuracy of the policy and, with `critic`, the critic's correlation with Monte-Carlo values."""
        if not self.validation:
            return {}
        step, prefixes = self.iteration + 1, self.config.monte_carlo_prefixes
        with self.timer("measure"):
            metrics = self.collector.measure(self.validation, self.accuracy, step)
            if critic and self.critic is not None and prefixes:
                metrics |= self.collector.check_critic(self.validation[:prefixes], self.clean_reward or self.reward, step)
        return metrics

    def save(self) -> None:
        """Write the checkpoint, if the run has one."""
        if self.checkpoint is None or not self.sharding.writes:
            return
        meta = {name: getattr(self, name) for name in ("fingerprint", "iteration", "rollouts", "policy_updates", "log")}
        meta |= {"health": [asdict(warning) for warning in self.health], "seconds": self.timer.so_far()}
        meta |= {"scaler": self.updater.scaler.state_dict(), "code": code_digest()}
        tensors, meta["warmup"] = ({}, None) if self.under_way is None else self.under_way.pack()
        self.sharding.save(self.checkpoint, tensors | pack(self.updater.models, self.updater.optimizers), meta)

    def resume(self) -> None:
        """Continue from the checkpoint (see `vrpo.training.checkpoint.load_checkpoint` for what it refuses)."""
        like = layout(self.updater.models, self.updater.optimizers)
        tensors, meta = self.sharding.load(present(self.checkpoint), self.fingerprint, like)
        unpack(tensors, self.updater.models, self.updater.optimizers)
        self.updater.scaler.load_state_dict(meta["scaler"])
        self.iteration, self.rollouts, self.updater.policy_updates = meta["iteration"], meta["rollouts"], meta["policy_updates"]
        self.log, self.timer.seconds = meta["log"], meta["seconds"]
        self.health = [HealthWarning(**warning) for warning in meta["health"]]
        self.under_way = WarmUp.unpack(tensors, meta["warmup"], self.algorithm.critic.Experience) if meta["warmup"] else None
        if meta["code"] != code_digest():
            logger.warning("%s was written by other code than goes on now: the run will be a mixture of both", self.checkpoint)
        if self.processes.is_main:
            self.on_resume(self.log)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the policy with its tokenizer to `policy/` and the critic, if there is one, to `value_model/`; adapters are folded in.

        Raises:
            UserError: what is read back is not what was trained (see `check_saved`).
        """
        policy, critic = self.sharding.plain(self.policy), self.critic and self.sharding.plain(self.critic)
        if not self.processes.is_main:
            return
        save_model(without_lora(policy), self.tokenizer, Path(folder) / "policy")
        if critic is not None:
            critic.save_pretrained(Path(folder) / "value_model")
        check_saved(Path(folder), policy, critic)
