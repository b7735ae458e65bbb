"""Typed settings of the library: sampling, training, critics, adapters, devices. A mistyped key or an impossible value is an error."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, Strict, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from vrpo.errors import UserError as UserError  # what every setting's error is
from vrpo.kinds import names

T = TypeVar("T")


def distinct(values: list[T]) -> list[T]:
    """Each value once: runs are named after them, so a repeated one would overwrite the first."""
    if again := [value for place, value in enumerate(values) if value in values[:place]]:
        raise PydanticCustomError("repeated", "{value} stands twice; remove one of the two", {"value": again[0]})
    return values


def _known_device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "use cpu, cuda or cuda:N")
    return name


Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]  # what every random number generator here takes
Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)]
Method = Literal[names("algorithms")]
CriticKind = Literal[names("critics")]
Engine = Literal[names("rollout.engines")]
Unset = Field(exclude_if=lambda value: value is None)  # no part of dumps: runs from before a key keep their names and checkpoints
Off = Field(exclude_if=lambda value: value is False)  # likewise
Precision = Literal["float32", "bfloat16", "float16"]


# Settings of memory and speed by section of the parameters: they may change between a kill and its resumption.
MEMORY_SETTINGS = {
    "runtime": {"device", "threads"},
    "generation": {"batch_size"},
    "train": {"micro_batch_size", "gradient_checkpointing", "checkpoint_every", "reward_timeout", "sharding", "offload"},
}


class Section(BaseModel):
    """Base of all sections: unknown keys, values of another type and numbers without end are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class GenerationConfig(Section):
    """Sampling of responses."""

    max_new_tokens: Count = 34  # of a response, or of a turn in a dialogue
    max_turns: Count = 10  # dialogue: the assistant's turns, after which it is cut
    temperature: Positive = 1.0  # of sampling, in training and evaluation
    batch_size: Count = 512  # rows decoded together; changes memory and speed, not the samples
    engine: Engine = "transformers"  # what samples: a module of vrpo/rollout/engines/
    engine_settings: Annotated[dict[str, Any] | None, Unset] = None  # of an engine that has some; for vllm those of `vllm.LLM`

    @model_serializer(mode="wrap")
    def _engine_where_chosen(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the default engine: what names runs and cells of before there was a choice names them still."""
        return {key: value for key, value in values(self).items() if (key, value) != ("engine", "transformers")}

    @model_validator(mode="after")
    def _settings_of_an_engine(self) -> GenerationConfig:
        if self.engine == "transformers" and self.engine_settings:
            raise ValueError(
                f"engine_settings={self.engine_settings}: the engine transformers has none; remove them or name another engine"
            )
        return self


class CriticConfig(Section):
    """Value model. `depth` and what is below it matter to the variational critic, VRPO's; the plain one, PPO's, has depth 0 and none of it."""

    kind: Annotated[CriticKind | None, Unset] = None  # in place of a method's own critic, where it has one: a module of vrpo/critics
    settings: Annotated[dict[str, Any] | None, Unset] = None  # of the critic of this kind, which knows their names
    backbone: Literal["separate", "shared"] = "separate"  # its own copy of the cold start, or the policy's transformer
    learning_rate: Positive = 1e-3  # of the value model
    epochs: Count = 1  # passes over each iteration's rollouts
    # rollouts of the cold start the critic is fitted to before the policy moves; None: about a third of train.rollouts, so that all divides
    warmup_rollouts: Annotated[Annotated[int, Field(ge=0)] | None, Unset] = None
    warmup_epochs: Count = 6  # passes over these
    clip_range: Positive | None = None  # value clipping; None: off
    loss_weight: Positive = 1.0  # of the whole value loss; matters where the backbone is shared
    gae_lambda: Probability = 1.0  # lambda of the value targets
    surprisal_inputs: bool = False  # the head also sees how surprised the cold start is by the response (not in the paper)
    depth: Annotated[int, Field(ge=0, le=2)] = 1  # variational bottleneck layers (paper: 1)
    latent_size: Count = 32  # width of the bottleneck
    beta: Annotated[float, Field(ge=0.0)] = 1e-3  # weight of the KL term (not given in the paper)
    semantic_head: Literal["frozen", "learned"] = "frozen"  # head for P_V: the cold start's, or one trained along
    activation_ratio: Probability = 0.8  # share of tokens each semantic loss acts on (paper: 0.8)
    entropy_weight: Annotated[float, Field(ge=0.0)] = 0.5  # of the mean entropy at the tokens where it is highest
    perplexity_weight: Annotated[float, Field(ge=0.0)] = 0.5  # of the mean surprisal at the tokens where it is highest


class LoRAConfig(Section):
    """Low-rank adapters (PEFT) on the policy and on the critic's backbone, whose own weights stay frozen."""

    rank: Count = 16  # of the two factors
    alpha: Positive = 32.0  # updates are scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # without effect, and said so: dropout acts in no pass of this training
    target_modules: Text | Annotated[list[str], Field(min_length=1)] = "all-linear"  # names of layers, or a pattern


class TrainConfig(Section):
    """One run of a method."""

    iterations: Count = 12  # of sampling and updating
    rollouts: Count = 4320  # budget over the whole run, value warm-up included
    group_size: Count = 8  # samples per prompt of the methods that compare them: grpo, dr_grpo, rloo, pf_ppo
    minibatches: Count = 2  # optimiser steps per epoch of an iteration
    micro_batch_size: Count = 32  # rows per forward pass, of similar length; changes memory and speed, not results
    epochs: Count = 1  # passes over each iteration's rollouts
    learning_rate: Positive = 5e-4  # of the policy
    lr_warmup: Annotated[int, Field(ge=0)] = 3  # iterations of linear warm-up
    clip_range: Positive = 0.2  # of the ratio of new to old probabilities, around 1
    gamma: Probability = 1.0  # discount per token
    gae_lambda: Probability = 0.9  # lambda of the policy's advantages; see the README on why below 1
    length_adaptive_alpha: Positive | None = None  # lambda = 1 - 1 / (alpha * length) per response instead of gae_lambda (VAPO)
    kl_coefficient: Annotated[float, Field(ge=0.0)] = 0.0  # weight of the divergence from the cold start
    kl_in: Literal["loss", "reward"] = "loss"  # k3 term in the loss, or k1 penalty in the reward
    importance_cap: Annotated[Positive | None, Unset] = None  # weigh tokens by min(p of the policy / p of the engine that sampled, this)
    max_grad_norm: Positive = 1.0  # longer gradients are cut to this
    gradient_checkpointing: bool = False  # less memory for activations, one more forward pass
    # With several processes, weights, gradients and optimiser states split over all of them, or over each machine's; null: whole in every one
    sharding: Annotated[Literal["full", "hybrid"] | None, Unset] = None
    offload: Annotated[bool, Off] = False  # shards wait in the host's memory, not in the accelerator's
    lora: LoRAConfig | None = None  # null: all weights are trained
    checkpoint_every: Count = 1  # iterations between checkpoints
    reward_timeout: Positive | None = None  # seconds that a reward may take over one batch of responses; None: no limit
    measure_every: Count = 4  # iterations between measurements of held-out accuracy and of the KL to the reference
    monte_carlo_prefixes: Annotated[int, Field(ge=0)] = 192  # states at which the critic is checked; 0: never
    monte_carlo_samples: Count = 8  # continuations of each state
    critic: CriticConfig = CriticConfig()

    @model_validator(mode="after")
    def _shards_to_offload(self) -> TrainConfig:
        if self.offload and self.sharding is None:
            raise ValueError("offload=true without shards that could wait elsewhere; set sharding to full or hybrid, or offload to false")
        return self

    @model_validator(mode="after")
    def _budget_divides(self) -> TrainConfig:
        """Every method must be able to spend the same budget to the last response."""
        warmup = self.value_warmup()
        left = self.rollouts - warmup
        if left < self.iterations * self.minibatches:
            raise ValueError(
                f"rollouts={self.rollouts} leaves {left} after critic.warmup_rollouts={warmup}, too few for "
                f"iterations={self.iterations} x minibatches={self.minibatches}; raise rollouts or lower one of the others"
            )
        groups = self.iterations * self.group_size
        nearest = max(1, round(self.rollouts / groups)) * groups
        if self.rollouts % groups:
            raise ValueError(
                f"rollouts={self.rollouts} is no multiple of iterations={self.iterations} x group_size={self.group_size}, so methods "
                f"with and without groups would not see the same number; use {nearest}"
            )
        if left % self.iterations:
            raise ValueError(
                f"critic.warmup_rollouts={warmup} leaves {left} of rollouts={self.rollouts}, no multiple of "
                f"iterations={self.iterations}; use {self.rollouts - round(left / self.iterations) * self.iterations}"
            )
        return self

    def value_warmup(self, group_size: int = 1) -> int:
        """Rollouts that a method with a critic spends on its value warm-up: `critic.warmup_rollouts`.

        Where that is None, about a third of the budget: what leaves each iteration the same number of whole groups of `group_size`, and
        every minibatch a response.
        """
        if self.critic.warmup_rollouts is not None:
            return self.critic.warmup_rollouts
        each = self.rollouts // self.iterations
        groups = min(round(each / group_size / 3), (each - self.minibatches) // group_size)
        return self.iterations * group_size * max(groups, 0)


class RuntimeConfig(Section):
    """Where tensors live. Thread count is per process."""

    device: Annotated[str, AfterValidator(_known_device)] = "cpu"  # cpu, cuda or cuda:N; every stage checks that the machine has it
    dtype: Precision = "float32"  # of computing; weights that are trained stay float32, and supervised fitting computes in it
    threads: Count = 1  # at most the machine's CPUs
    trust_remote_code: bool = False  # run the Python code that comes with a model of the hub

    @property
    def training(self) -> RuntimeConfig:
        """For weights that are trained: float32, in half precision small updates are lost."""
        return self.model_copy(update={"dtype": "float32"})
