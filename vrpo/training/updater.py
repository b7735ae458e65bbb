"""Optimiser steps: minibatches, micro-batches, gradients over processes, clipping, mixed precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrpo.algorithms.base import Algorithm
from vrpo.config import Precision
from vrpo.data.batch import Experience
from vrpo.errors import UserError
from vrpo.models.precision import broken_gradient, refuse_half_weights
from vrpo.seeding import generator
from vrpo.training.objective import policy_terms
from vrpo.training.sharding import Whole, whole_tensor

# Of the whole gradient's norm. What is smaller in a bias may be rounding of float32 sums, where the true gradient is 0: a key's bias changes
# no attention. Adam would make whole steps of it, others for every split into micro-batches.
BIAS_NOISE = 2.0**-24
SMALLEST_SCALE = 2.0**-16  # of float16 losses: gradients that overflow even then will not fit


@dataclass
class Progress:
    """How far an update is: finished passes, and every loss and norm of their steps."""

    epochs: int = 0
    totals: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class WarmUp:
    """A value warm-up under way: its rollouts, their metrics, how far the critic's passes over them are, and whether they were absorbed after
    the last one, which no checkpoint of it follows."""

    experience: Experience
    row: dict[str, float]
    progress: Progress = field(default_factory=Progress)
    absorbed: bool = False

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, for a checkpoint."""
        tensors = {f"warmup/{name}": value.clone() for name, value in vars(self.experience).items() if value is not None}
        return tensors, {"row": self.row, "progress": asdict(self.progress)}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], meta: dict[str, Any], kind: type[Experience]) -> WarmUp:
        """What `pack` gave, of an experience of this kind; other tensors are left out."""
        own = {name.removeprefix("warmup/"): value for name, value in tensors.items() if name.startswith("warmup/")}
        return cls(kind(**own), meta["row"], Progress(**meta["progress"]))


class Updater:
    """Updates a policy and its algorithm's critic on an experience.

    Args:
        policy: causal LM.
        algorithm: has the policy's loss, the critic and the run's parameters.
        temperature, max_new_tokens: of the samples; in dialogues the tokens of all turns.
        seed: the run's.
        precision: float32, or what forward passes are cast to (float16 with scaled gradients). Weights stay as they are.
        sharding: where the weights of policy, critic and optimisers lie.

    Raises:
        UserError: weights that are to be trained are of half precision.
    """

    def __init__(
        self,
        policy: nn.Module,
        algorithm: Algorithm,
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        precision: Precision,
        sharding: Whole,
    ) -> None:
        config = self.config = algorithm.config
        self.policy, self.algorithm, self.seed, self.sharding, self.processes = policy, algorithm, seed, sharding, sharding.processes
        self.temperature, self.max_new_tokens, self.precision = temperature, max_new_tokens, precision
        self.critic, self.policy_updates = algorithm.critic, 0
        self.shared = self.critic is not None and config.critic.backbone == "shared"
        self.models = nn.ModuleDict(
            {"policy": policy, "algorithm": algorithm.memory}
        ).eval()  # for good: with dropout, ratios would differ from 1 before a step
        learning = [p for p in policy.parameters() if p.requires_grad]
        self.optimizers = {"policy": torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.0)}
        if self.critic is not None:
            self.models["critic"] = self.critic.model.eval()
            policys = set(map(id, policy.parameters()))
            own = [p for p in self.critic.model.parameters() if p.requires_grad and id(p) not in policys]
            if own:  # else it learns without gradients (`Critic.absorb`)
                self.optimizers["critic"] = torch.optim.AdamW(own, lr=config.critic.learning_rate, weight_decay=0.0)
        for name, optimizer in self.optimizers.items():
            refuse_half_weights(name, optimizer.param_groups[0]["params"])
        self.scaler = torch.amp.GradScaler(self.processes.device.type, enabled=precision == "float16")

    def autocast(self) -> AbstractContextManager:
        """Forward passes at the run's precision."""
        dtype = getattr(torch, self.precision) if self.precision != "float32" else None
        return torch.autocast(self.processes.device.type, dtype=dtype, enabled=dtype is not None)

    def update(
        self,
        experience: Experience,
        iteration: int,
        *,
        steps: int,
        policy_epochs: int,
        critic_epochs: int,
        progress: Progress | None = None,
        on_epoch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Passes over an experience, `steps` optimiser steps each; returns the mean of every loss and norm over the steps.

        In float16 also the number of steps that were skipped; they do not count as `policy_updates`. A minibatch without a scored token is
        no step.
        With the `progress` of an update that was stopped between two passes it goes on from there; `on_epoch` is called after each.
        """
        progress = progress or Progress()
        totals = progress.totals
        if "critic" not in self.optimizers:
            critic_epochs = 0
        for epoch in range(progress.epochs, max(policy_epochs, critic_epochs)):
            order = torch.randperm(len(experience), generator=generator(self.seed, iteration, epoch, "order"))
            train_policy, train_critic = epoch < policy_epochs, epoch < critic_epochs
            if train_critic:
                experience = replace(experience, latent_noise=self.critic.noise(experience, self.seed, iteration, epoch))
            for rows in order.tensor_split(steps):
                if not experience.response_mask[rows].any():  # nothing of it is scored: no step, and no zeros in the means
                    continue
                metrics = self.step(experience[rows], iteration, train_policy, train_critic)
                self.policy_updates += train_policy and not metrics.get("policy/skipped_steps")
                for key, value in metrics.items():
                    totals.setdefault(key, []).append(value)
            progress.epochs = epoch + 1
            on_epoch()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()  # to sample needs their memory
        return {key: sum(values) / (1 if key.endswith("/skipped_steps") else len(values)) for key, values in totals.items()}

    def require_steps(self) -> None:
        """Stop a run that ends as if it had trained.

        Raises:
            UserError: an optimiser never took a step.
        """
        for name, optimizer in self.optimizers.items():
            if not optimizer.state:
                raise UserError(
                    f"the {name} was never trained: each of its steps was skipped, because gradients overflowed {self.precision}; "
                    "use precision (runtime.dtype) bfloat16 or float32"
                )

    def step(self, batch: Experience, iteration: int, train_policy: bool, train_critic: bool) -> dict[str, float]:
        """One step of the policy's and the critic's optimiser on `batch`, whatever the micro-batches and processes it is split into."""
        batch = batch.blank_padding()
        metrics = self._backward(batch, train_policy, train_critic)
        for name in ["policy"] * train_policy + ["critic"] * train_critic:
            metrics |= self._apply(name, iteration, batch, metrics)
        self.scaler.update()
        return metrics

    def policy_gradient(self, batch: Experience) -> Tensor:
        """The gradient of the policy's loss on `batch` as a step would take it, before any clipping; nothing is changed.

        Returns:
            float32 [N], over all parameters of the policy that learn, in their order.
        """
        self._backward(batch.blank_padding(), train_policy=True, train_critic=False)
        optimizer = self.optimizers["policy"]
        parameters = optimizer.param_groups[0]["params"]
        self.sharding.reduce(parameters)
        parts = [
            whole_tensor(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten() for parameter in parameters
        ]
        optimizer.zero_grad()
        return torch.cat(parts) / self.scaler.get_scale()

    def _backward(self, batch: Experience, train_policy: bool, train_critic: bool) -> dict[str, float]:
        """Leave the loss's gradient, times the scaler's scale, on the parameters: of this process's share of the rows, micro-batch by
        micro-batch. Returns losses and metrics of the whole batch."""
        counts = {name: value.sum() for name, value in vars(batch).items() if value is not None and value.dtype == torch.bool}
        counts |= {"responses": batch.response_mask.any(1).sum(), "max_new_tokens": torch.tensor(self.max_new_tokens)}
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        self.scaler.scale(torch.zeros((), device=self.processes.device))  # it must exist where a process has no rows too
        mine, size = batch[self.processes.share(len(batch))], self.config.micro_batch_size
        sums: dict[str, float] = {}
        lots = [(mine[rows], 1.0) for rows in mine.micro_batches(size)]
        lots += [(batch[:1], 0.0)] * self.sharding.missing(len(batch), size)  # passes that others wait for
        # One after the other, so that only one model's activations are held at a time; a common backbone is passed once.
        passes = [(train_policy, train_critic)] if self.shared else [(True, False)] * train_policy + [(False, True)] * train_critic
        for rows, own in lots:
            micro = rows.trim().to(self.processes.device)
            for policy, critic in passes:
                model = self.policy if policy or self.shared else self.critic.model
                with self.autocast():
                    terms, shares = self.sharding.run(model, self._loss_terms, micro, counts, policy, critic)
                loss = sum(term * (self.config.critic.loss_weight if name.startswith("critic/") else 1.0) for name, term in terms.items())
                self.scaler.scale(own * loss).backward()
                for name, share in (shares | {name: term.item() for name, term in terms.items()}).items() if own else ():
                    sums[name] = sums.get(name, 0.0) + share
        parts = self.processes.gather(sums)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in max(parts, key=len)}

    def _apply(self, name: str, iteration: int, batch: Experience, metrics: dict[str, float]) -> dict[str, float]:
        """Clip the gradient of one optimiser's parameters and let it step; returns the norm before clipping, or that it was skipped."""
        optimizer, half = self.optimizers[name], self.scaler.is_enabled()
        parameters = optimizer.param_groups[0]["params"]
        self.sharding.reduce(parameters)
        self.scaler.unscale_(optimizer)
        norm = self.sharding.clip(parameters, self.config.max_grad_norm)
        gradients = [parameter for parameter in parameters if parameter.grad is not None]
        readings = {f"{name}/skipped_steps": float(not math.isfinite(norm))} if half else {}
        if math.isfinite(norm):
            for bias in (parameter for parameter in gradients if parameter.ndim == 1):
                bias.grad = F.hardshrink(bias.grad, BIAS_NOISE * min(norm, self.config.max_grad_norm))
            readings[f"{name}/grad_norm"] = norm
        elif not half or self.scaler.get_scale() < SMALLEST_SCALE or all(parameter.grad.isfinite().all() for parameter in gradients):
            losses = ", ".join(f"{key} = {value:.4g}" for key, value in metrics.items())
            cause = broken_gradient(self.models[name], batch, metrics, name=name, half=half, stepped=bool(optimizer.state))
            raise UserError(f"the {name}'s gradient is {norm} in iteration {iteration} ({losses}): {cause} (the last checkpoint is kept)")
        self.scaler.step(optimizer)  # which skips it where a gradient is not finite, and lowers the scale
        return readings

    def _loss_terms(
        self, micro: Experience, counts: dict[str, Tensor], train_policy: bool, train_critic: bool
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        terms: dict[str, Tensor] = {}
        metrics: dict[str, float] = {}
        hidden = None
        if train_policy:
            hidden = self.shared and train_critic
            terms, metrics, hidden = policy_terms(self.policy, self.algorithm, micro, self.temperature, counts, hidden)
        if train_critic:
            if hidden is None:
                # Where the backbone is shared, the policy rests now: only the head learns, and no backward through the backbone is paid.
                with torch.set_grad_enabled(not self.shared):
                    hidden = self.critic.model.states(micro)
            value_terms, readings = self.critic.loss(micro, hidden, counts)
            terms |= {f"critic/{name}": term for name, term in value_terms.items()}
            metrics |= {f"critic/{name}": reading for name, reading in readings.items()}
        return terms, metrics
