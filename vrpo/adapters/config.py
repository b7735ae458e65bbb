"""TRL's arguments for our runs: each is mapped to a setting of `vrpo.config`, or refused by name with what to use instead (`refused.py`)."""

from __future__ import annotations

import json
from dataclasses import Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from vrpo.adapters.refused import REFUSED
from vrpo.errors import UserError, shown

TRACKERS = ("wandb", "tensorboard", "mlflow", "trackio")
STRATEGIES = ("no", "steps", "epoch")


def argument(default: Any, help: str) -> Any:
    """A field with the line that `transformers.HfArgumentParser` shows for it."""
    return field(default=default, metadata={"help": help})


class _Sorted(type):
    """Looks at the names of a call before the dataclass does."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return super().__call__(*arguments, **{name: value for name, value in named.items() if is_ours(name, value)})


@dataclass
class VRPOConfig(metaclass=_Sorted):
    """Arguments of a `VRPOTrainer`, by TRL's names; docs/trl.md compares them one by one. A step is an optimiser step of the policy, as there.

    Raises:
        UserError: an argument that TRL has and we have not, or a value that cannot be.
    """

    output_dir: str = argument("trainer_output", "folder of the checkpoint and the saved model")
    method: str = argument("vrpo", "the algorithm: a module of vrpo/algorithms")

    per_device_train_batch_size: int = argument(8, "responses per forward pass and process")
    gradient_accumulation_steps: int = argument(1, "forward passes to an optimiser step")
    steps_per_generation: int | None = argument(None, "forward passes to the responses of one sampling; None: gradient_accumulation_steps")
    generation_batch_size: int | None = argument(None, "the same, as a number of responses")
    per_device_eval_batch_size: int = argument(512, "responses decoded together, in training too")
    num_generations: int = argument(8, "responses to a prompt, of the methods that compare them")
    max_steps: int = argument(-1, "optimiser steps; -1: num_train_epochs decides")
    num_train_epochs: float = argument(3.0, "passes over the prompts, num_generations responses to each")
    num_iterations: int = argument(1, "passes over the responses of one sampling")

    learning_rate: float = argument(1e-6, "of the policy; the critic's is ten times that, where `critic` does not say")
    lr_scheduler_type: str = argument("constant_with_warmup", "the only one; `constant` is the same without warmup_steps")
    warmup_steps: float = argument(0, "steps of linear warm-up; below 1 a share of all")
    max_grad_norm: float = argument(1.0, "longer gradients are cut to this")
    beta: float = argument(0.0, "weight of the divergence from the initial model")
    kl_in: str = argument("loss", "where it acts: `loss` (GRPO's) or `reward` (PPO's)")
    epsilon: float = argument(0.2, "clip range of the probability ratio")
    gamma: float = argument(1.0, "discount per token")
    gae_lambda: float = argument(0.9, "lambda of the advantages, of methods with a critic")
    length_adaptive_alpha: float | None = argument(None, "lambda by length (VAPO)")
    critic: dict | None = argument(None, "settings of the value model: vrpo.config.CriticConfig")

    temperature: float = argument(1.0, "of sampling")
    max_completion_length: int = argument(512, "tokens of a response")
    max_turns: int = argument(10, "of the assistant in a dialogue (VRPOTrainer's `environment`)")
    engine: str = argument("transformers", "what samples: a module of vrpo/rollout/engines, for vLLM vllm")
    engine_settings: dict | None = argument(None, "of an engine that has some; for vllm those of vllm.LLM")
    importance_cap: float | None = argument(None, "weigh tokens by min(p of the policy / p of the engine, this)")

    reward_weights: list[float] | None = argument(None, "of the reward functions; None: 1 each")
    reward_timeout: float | None = argument(None, "seconds that the rewards of one batch may take")
    noise: list[dict] | None = argument(None, "noise channels between the reward and training: vrpo.rewards.noise")

    bf16: bool = argument(False, "compute in bfloat16; weights stay float32")
    fp16: bool = argument(False, "compute in float16; weights stay float32")
    use_cpu: bool = argument(False, "even where there is a GPU")
    gradient_checkpointing: bool = argument(False, "less memory, one more forward pass")
    sharding: str | None = argument(None, "models over several processes (FSDP2): full or hybrid")
    offload: bool = argument(False, "shards wait in the host's memory")
    lora: dict | None = argument(None, "adapters: vrpo.config.LoRAConfig; or give VRPOTrainer PEFT's `peft_config`")
    trust_remote_code: bool = argument(False, "run Python code that comes with a model of the hub")
    seed: int = argument(42, "of everything random")

    logging_strategy: str = argument("steps", "when the log is written: no, steps, epoch")
    logging_steps: int = argument(1, "steps between; values are means over them")
    logging_first_step: bool = argument(False, "also after the first step")
    eval_strategy: str = argument(
        "no", "when `eval_dataset` is measured: no, steps, epoch; with it also before the first and after the last step"
    )
    eval_steps: int | None = argument(None, "steps between; None: logging_steps")
    monte_carlo_prefixes: int = argument(0, "states of evaluation rows where the critic is checked; 0: never")
    monte_carlo_samples: int = argument(8, "continuations of each")
    save_strategy: str = argument("steps", "when the checkpoint is written: no, steps, epoch; with it also after the last step")
    save_steps: int = argument(10, "steps between")
    report_to: str | list[str] = argument("none", f"trackers: {', '.join(TRACKERS)}")
    run_name: str | None = argument(None, "of the run in trackers")
    project: str = argument("huggingface", "of the run in Trackio")
    trackio_space_id: str | None = argument(None, "of Trackio")
    trackio_bucket_id: str | None = argument(None, "of Trackio")
    trackio_static_space_id: str | None = argument(None, "of Trackio")
    disable_tqdm: bool = argument(False, "without a progress bar")
    metric_for_best_model: str | None = argument(None, "what EarlyStoppingCallback watches, say eval_reward")
    greater_is_better: bool = argument(True, "of it")

    push_to_hub: bool = argument(False, "after the last step")
    hub_model_id: str | None = argument(
        None, "where to: a hub id; or a folder, written ./NAME or as an absolute path, which gets the hub's layout"
    )
    hub_token: str | None = field(default=None, repr=False, metadata={"help": "of the hub; None: of `hf auth login`"})
    hub_private_repo: bool | None = argument(None, "whether a new repository is private")
    hub_revision: str | None = argument(None, "branch")

    def __post_init__(self) -> None:
        self.report_to = _trackers(self.report_to)
        for name in ("logging_strategy", "eval_strategy", "save_strategy"):
            setattr(self, name, _one_of(name, getattr(self, name), STRATEGIES))
        schedules = ("constant_with_warmup", "constant") if not self.warmup_steps else ("constant_with_warmup",)
        self.lr_scheduler_type = _one_of("lr_scheduler_type", self.lr_scheduler_type, schedules)
        if self.bf16 and self.fp16:
            raise UserError("bf16 = True and fp16 = True: computing has one precision; use one of the two")
        self.output_dir = str(self.output_dir)

    def to_dict(self) -> dict[str, Any]:
        """All values by name, as trackers log them; a token is not among them."""
        return asdict(self) | {"hub_token": None}

    def to_sanitized_dict(self) -> dict[str, Any]:
        """The same as numbers and text."""
        return {name: value if type(value) in (bool, int, float, str) else str(value) for name, value in self.to_dict().items()}

    def to_json_string(self) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    # Callbacks of transformers read these.
    load_best_model_at_end = False
    eval_delay = 0


def is_ours(name: str, value: Any) -> bool:
    """Whether `VRPOConfig` has an argument; False for one of TRL's that asks for nothing, or for what is done here in any case.

    Raises:
        UserError: it asks for something that is not here; names the argument, its value and what to use.
    """
    if name in NAMES:
        return True
    if name in REFUSED:
        if value is None or value in REFUSED[name].holds:
            return False
        raise UserError(f"{name} = {shown(value)}: {REFUSED[name].cure}")
    close = get_close_matches(name, [*NAMES, *REFUSED], n=1)
    raise UserError(f"{name} = {shown(value)}: no such argument{f' (did you mean {close[0]!r}?)' if close else ''}; docs/trl.md lists them")


def _trackers(named: str | list[str] | None) -> list[str]:
    chosen = [] if named in (None, "none") else [named] if isinstance(named, str) else list(named)
    if chosen == ["none"]:
        return []
    for name in chosen:
        if name not in TRACKERS:
            raise UserError(
                f"report_to = {name!r}: use {', '.join(TRACKERS)} or 'none'; for another tracker give its callback in `callbacks`"
            )
    return chosen


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    text = str(getattr(value, "value", value))  # of transformers' enumerations
    if text not in known:
        raise UserError(f"{name} = {value!r}: use {' or '.join(known)}")
    return text


SETTINGS = {  # those whose value is that of one setting of `vrpo.config`
    "per_device_train_batch_size": "train.micro_batch_size",
    "per_device_eval_batch_size": "generation.batch_size",
    "num_generations": "train.group_size",
    "num_iterations": "train.epochs",
    "learning_rate": "train.learning_rate",
    "max_grad_norm": "train.max_grad_norm",
    "beta": "train.kl_coefficient",
    "kl_in": "train.kl_in",
    "epsilon": "train.clip_range",
    "gamma": "train.gamma",
    "gae_lambda": "train.gae_lambda",
    "length_adaptive_alpha": "train.length_adaptive_alpha",
    "critic": "train.critic",
    "temperature": "generation.temperature",
    "max_completion_length": "generation.max_new_tokens",
    "max_turns": "generation.max_turns",
    "engine": "generation.engine",
    "engine_settings": "generation.engine_settings",
    "importance_cap": "train.importance_cap",
    "sharding": "train.sharding",
    "offload": "train.offload",
    "reward_timeout": "train.reward_timeout",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "lora": "train.lora",
    "monte_carlo_prefixes": "train.monte_carlo_prefixes",
    "monte_carlo_samples": "train.monte_carlo_samples",
}
FIELDS: dict[str, Field[Any]] = {entry.name: entry for entry in fields(VRPOConfig)}
NAMES = tuple(FIELDS)
