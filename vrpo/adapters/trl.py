"""TRL's surface on our trainer: who knows `GRPOTrainer` knows `VRPOTrainer`. docs/trl.md has a quick start and all arguments, one by one."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn
from transformers.trainer_utils import TrainOutput

from vrpo.adapters.callbacks import Moments, evaluation_logs
from vrpo.adapters.config import VRPOConfig
from vrpo.adapters.hub import dataset_name, push, write_model
from vrpo.adapters.plan import plan, valid
from vrpo.adapters.refused import TRAINER
from vrpo.adapters.rewards import CONVERSATION, NoisyRewards, Rewards
from vrpo.config import LoRAConfig, RuntimeConfig
from vrpo.data.prompts import prompt_rows
from vrpo.errors import UserError, shown
from vrpo.models.loading import load_policy, load_tokenizer
from vrpo.rewards.noise import AnyChannel, Noise
from vrpo.rollout.conversation import Environment
from vrpo.training.processes import Processes
from vrpo.training.trainer import Trainer

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"  # in args.output_dir


class VRPOTrainer:
    """`vrpo.training.trainer.Trainer`, VRPO's and all other methods', as TRL's `GRPOTrainer` is used.

    Args:
        model: causal LM, trained in place, or a folder or hub id to load one from.
        reward_funcs: one function or several, `(prompts, completions, **columns) -> list[float | None]` (see `vrpo.adapters.rewards.Rewards`).
        args: None: all defaults.
        train_dataset: rows with a `prompt`, text or conversation, and any other columns, which rewards get by name.
        eval_dataset: held-out rows, measured as `args.eval_strategy` says and by `evaluate`.
        processing_class: the model's tokenizer; None: the one that lies beside the model.
        peft_config: `peft.LoraConfig`: adapters are trained instead of the model's weights.
        callbacks: of transformers, instances or classes; called in the first process alone.
        clean_reward: a reward without noise of its own, for measurement only; None: `reward_funcs`, before `args.noise`.
        environment: answers the policy's turns (see `vrpo.training.trainer.Trainer`).
        refused: TRL's other arguments, refused by name.

    Attributes:
        trainer: ours, with its `log`, `health` and models.
        state, control: of transformers, as callbacks get them.

    Raises:
        UserError: an argument that is not here or does not fit, before anything is sampled.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
        args: VRPOConfig | None = None,
        train_dataset: Iterable[Any] | None = None,
        eval_dataset: Iterable[Any] | None = None,
        processing_class: Any = None,
        *,
        callbacks: Iterable[Any] | None = None,
        peft_config: Any = None,
        clean_reward: Callable[..., Any] | None = None,
        environment: Environment | None = None,
        **refused: Any,
    ) -> None:
        for name, value in refused.items():
            _refuse(name, value)
        self.base_name = str(model) if isinstance(model, str | Path) else str(getattr(getattr(model, "config", None), "_name_or_path", ""))
        self.args = args = _config(args, self.base_name)
        policy, self.processing_class = _policy(model, processing_class, args)
        self.data_name = dataset_name(train_dataset)
        self.rows = prompt_rows(train_dataset, self.processing_class, messages=CONVERSATION)
        self.evaluation = prompt_rows(eval_dataset, self.processing_class, "evaluation data", none=True, messages=CONVERSATION)
        if args.eval_strategy != "no" and not self.evaluation:
            raise UserError(f"eval_strategy = {args.eval_strategy!r}: there is no eval_dataset; give one, or leave eval_strategy out")
        processes = Processes(policy.device)
        self.plan = plan(args, len(self.rows), processes.count)
        config = self.plan.train
        if peft_config is not None:
            config = config.model_copy(update={"lora": _lora(peft_config, policy)})
        self.moments = Moments(args, self.plan, callbacks or (), self.processing_class, processes.is_main)
        self.channels = valid(TypeAdapter(list[AnyChannel]), args.noise or [], "noise")
        self.rewards = Rewards(reward_funcs, args.reward_weights, self.state)
        clean = self.rewards if clean_reward is None else Rewards(clean_reward, None, self.state)
        self.measured = Rewards(reward_funcs, args.reward_weights, self.state) if clean_reward is None else clean
        for rewards in (self.rewards, clean):
            rewards.check(self.rows[0])
        if self.evaluation:
            self.measured.check(self.evaluation[0])
        self.checkpoint = Path(args.output_dir) / CHECKPOINT
        self.trainer = Trainer(
            config,
            policy,
            self.processing_class,
            self.rows,
            NoisyRewards(self.rewards, Noise(self.channels, args.seed)) if self.channels else self.rewards,
            method=args.method,
            seed=args.seed,
            generation=self.plan.generation,
            precision="bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
            clean_reward=clean if self.channels or clean_reward is not None else None,
            accuracy=self.measured,
            environment=environment,
            validation=self.evaluation if args.eval_strategy != "no" else (),
            checkpoint=self.checkpoint if args.save_strategy != "no" else None,
            on_log=lambda row: self.moments.finished(row, self._save, self.evaluate),
            on_resume=self.moments.replay,
            proceed=self._proceed,
        )
        self.moments.handler.model = self.model
        self._begun = False
        self.moments.call("on_init_end")

    @property
    def state(self) -> Any:
        """`transformers.TrainerState`: steps, and the history of logs."""
        return self.moments.state

    @property
    def control(self) -> Any:
        """`transformers.TrainerControl`."""
        return self.moments.control

    @property
    def model(self) -> Any:
        """The policy; with adapters PEFT's model around it."""
        return self.trainer.policy

    def add_callback(self, callback: Any) -> None:
        """Add a callback, an instance or a class."""
        self.moments.handler.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, an instance or the first of a class, and return it."""
        return self.moments.handler.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, an instance or the first of a class."""
        self.moments.handler.remove_callback(callback)

    def train(self, resume_from_checkpoint: bool | str | Path | None = None) -> TrainOutput:
        """Train to the end, or until a callback sets `control.should_training_stop`.

        Args:
            resume_from_checkpoint: True: go on from the checkpoint in `args.output_dir`; a path: from that file, or the one in that folder.
                None: start anew. A run that goes on ends with the numbers of one that was never stopped.

        Returns:
            the last step, the mean loss, and figures of the whole run.

        Raises:
            UserError: there is no checkpoint, or it is of another run.
        """
        if self.trainer.processes.is_main:
            self._place_checkpoint(resume_from_checkpoint)
        self.trainer.processes.wait()
        start, self._begun = time.perf_counter(), False
        log = self.trainer.run()
        self._begin()
        if self._stopped_early and self.args.save_strategy != "no":
            self._save()
        losses = [row["policy/loss"] for row in log if "policy/loss" in row]
        seconds = time.perf_counter() - start
        metrics = {
            "train_runtime": round(seconds, 4),
            "train_loss": sum(losses) / len(losses) if losses else 0.0,
            "rollouts": float(self.trainer.rollouts),
        }
        if self.trainer.processes.is_main:
            self.moments.log(dict(metrics))
            self.moments.call("on_train_end")
        if self.args.push_to_hub:
            self.push_to_hub()
        return TrainOutput(self.state.global_step, metrics["train_loss"], metrics)

    def evaluate(self, eval_dataset: Iterable[Any] | None = None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Mean reward, without noise, and length of one response to each row; logged, and returned as `<prefix>_reward`, `<prefix>_length`.

        Raises:
            UserError: there are no rows.
        """
        rows = self.evaluation
        if eval_dataset is not None:
            rows = prompt_rows(eval_dataset, self.processing_class, "evaluation data", messages=CONVERSATION)
            self.measured.check(rows[0])
        if not rows:
            raise UserError("eval_dataset is None: give VRPOTrainer or evaluate() rows to measure on")
        measured = self.trainer.collector.measure(rows, self.measured, self.trainer.iteration + 1)
        metrics = evaluation_logs(measured, metric_key_prefix) | {"epoch": self.state.epoch or 0.0}
        if self.trainer.processes.is_main:
            self.moments.evaluated(metrics)
        return metrics

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Write policy, tokenizer and card to a folder, the value model, if there is one, to `value_model/` in it; adapters are folded in."""
        if self.trainer.processes.is_main:
            write_model(self, Path(output_dir or self.args.output_dir))

    save_pretrained = save_model

    def push_to_hub(self, commit_message: str = "End of training") -> str | None:
        """Bring the model with its card to `args.hub_model_id`, a hub id or a folder (see `vrpo.adapters.hub`). Returns where it is; in the
        other processes None."""
        if not self.trainer.processes.is_main:
            return None
        self.moments.call("on_push_begin")
        return push(self, self.args.hub_model_id or Path(self.args.output_dir).name, commit_message)

    @property
    def _stopped_early(self) -> bool:
        return self.trainer.iteration < self.trainer.config.iterations

    def _proceed(self, iteration: int) -> bool:
        """Before each iteration: tell callbacks, and stop all processes where one of them wants to."""
        self._begin()
        if any(self.trainer.processes.gather(self.control.should_training_stop)):
            return False
        if iteration and self.trainer.processes.is_main:
            self.moments.call("on_step_begin")
        return True

    def _begin(self) -> None:
        """Once a call of `train`, when a run that goes on knows where it is."""
        if not self._begun and self.trainer.processes.is_main:
            self.moments.call("on_train_begin")
        self._begun = True

    def _save(self) -> None:
        """Write the checkpoint now, whatever `args.save_strategy` is."""
        kept, self.trainer.checkpoint = self.trainer.checkpoint, self.checkpoint
        self.trainer.save()
        self.trainer.checkpoint = kept

    def _place_checkpoint(self, resume: bool | str | Path | None) -> None:
        """Put the checkpoint to go on from where the run looks for it, or take it away."""
        if not resume:
            if self.trainer.iteration < 0:
                self.checkpoint.unlink(missing_ok=True)
            return
        source = self.checkpoint if resume is True else Path(resume)
        source = source / CHECKPOINT if source.is_dir() else source
        if not source.is_file():
            raise UserError(f"resume_from_checkpoint = {resume!r}: there is no {source}; leave it out to start anew")
        if source.resolve() != self.checkpoint.resolve():
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, self.checkpoint)
        self.trainer.checkpoint = self.checkpoint


def _refuse(name: str, value: Any) -> None:
    if name not in TRAINER:
        raise UserError(f"VRPOTrainer has no argument {name!r}; docs/trl.md lists what it takes")
    if value is not None and value not in TRAINER[name].holds:
        raise UserError(f"{name} = {shown(value)}: {TRAINER[name].cure}")


def _config(args: Any, base: str) -> VRPOConfig:
    if args is None:
        return VRPOConfig(output_dir=f"{Path(base).name or 'model'}-VRPO")
    if not isinstance(args, VRPOConfig):
        raise UserError(f"args is a {type(args).__name__}; give a VRPOConfig, which takes the same arguments (docs/trl.md)")
    return args


def _policy(model: Any, tokenizer: Any, args: VRPOConfig) -> tuple[Any, Any]:
    """Model and tokenizer, on the accelerator where there is one."""
    device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
    if isinstance(model, str | Path):
        policy, own = load_policy(model, RuntimeConfig(device=device, trust_remote_code=args.trust_remote_code))
        return policy, tokenizer or own
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UserError(f"model: {shown(model)} is no model; give a causal language model, a model's folder or a hub id")
    if tokenizer is None:
        if not model.config._name_or_path:
            raise UserError("processing_class is None, and the model does not say where it came from; give its tokenizer")
        tokenizer = load_tokenizer(model.config._name_or_path, args.trust_remote_code)
    return model.to(device), tokenizer


def _lora(given: Any, policy: Any) -> LoRAConfig:
    """PEFT's configuration as ours.

    Raises:
        UserError: it is no LoRA, or asks for something that is not here.
    """
    from peft import LoraConfig
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    if type(given) is not LoraConfig:
        raise UserError(f"peft_config is a {type(given).__name__}; give a peft.LoraConfig")
    ours, plain = {"r", "lora_alpha", "lora_dropout", "target_modules", "task_type", "base_model_name_or_path"}, LoraConfig().to_dict()
    for name, value in given.to_dict().items():
        if name not in ours and value != plain.get(name):
            raise UserError(
                f"peft_config.{name} = {shown(value)}: adapters here have r, lora_alpha, lora_dropout and target_modules; leave it out"
            )
    targets, kind = given.target_modules, policy.config.model_type
    if targets is None and (targets := TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind)) is None:
        raise UserError(f"peft_config.target_modules is None, and PEFT has no default for {kind}; name layers, or 'all-linear'")
    values = {
        "rank": given.r,
        "alpha": float(given.lora_alpha),
        "dropout": float(given.lora_dropout),
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
    }
    return valid(LoRAConfig, values, "peft_config")
