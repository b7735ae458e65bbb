"""Supervised fitting through TRL: demonstrations (base model, cold start) and preference pairs (reward model).

Texts are tokenized here rather than by TRL: a prompt gets the very tokens it has at generation, whatever follows it, and
the end of the text is marked exactly once. Optimiser settings are those of small models trained for a few hundred steps.
"""

from __future__ import annotations

import copy
import math
from tempfile import TemporaryDirectory
from typing import Any

from vrpo.data.text import encode_turns
from vrpo.errors import UserError
from vrpo.models.limits import check_tokens
from vrpo.models.precision import broken_weight, refuse_half_weights

IGNORED = -100  # label of a position that does not count


Completion = str | list[str]  # a text, or the messages of a dialogue, the assistant's first


def encode_completion(tokenizer: Any, completion: Completion, model: Any = None) -> tuple[list[int], list[bool]]:
    """Token ids of a completion, EOS last and exactly once, and which of them the assistant wrote. `model`: see `encode_turns`."""
    if not isinstance(completion, str):
        return encode_turns(tokenizer, completion, model)
    ids, eos = tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id
    ids = ids if ids[-1:] == [eos] else [*ids, eos]
    return ids, [True] * len(ids)


def encode_pairs(tokenizer: Any, prompts: list[str], completions: list[Completion], model: Any = None) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of its completion (see `encode_completion`)."""
    encoded = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    return [(prompt, encode_completion(tokenizer, completion, model)[0]) for prompt, completion in zip(encoded, completions, strict=True)]


def fit_demonstrations(
    model: Any,
    tokenizer: Any,
    pairs: list[dict[str, Any]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    stage: str,
    shuffle: bool = True,
) -> list[float]:
    """Train `model` in place to continue each `prompt` with its `completion` and EOS; the prompt itself is not learned.

    A completion may be a dialogue (see `Completion`): only the assistant's turns are learned, the others are read.

    With `shuffle=False` the pairs are seen in their order.

    Returns:
        The mean loss per completion token (nats) of every step's batch, before that step's update.

    Raises:
        UserError: weights are half precision or not finite, or the loss or its gradient is not; names `stage` and the cause.
    """
    from datasets import Dataset
    from transformers import Trainer
    from trl import SFTConfig, SFTTrainer

    class LeanSFTTrainer(SFTTrainer):
        compute_loss = Trainer.compute_loss  # the model's own loss; TRL's adds entropy and accuracy to every step, which nothing here reads

    prompts = tokenizer([pair["prompt"] for pair in pairs], add_special_tokens=False)["input_ids"]
    completions = [encode_completion(tokenizer, pair["completion"], model) for pair in pairs]
    check_tokens(
        model, [prompt + ids for prompt, (ids, _) in zip(prompts, completions, strict=True)], 0, f"{stage}: demonstration", training=True
    )
    dataset = Dataset.from_dict(
        {
            "input_ids": [prompt + ids for prompt, (ids, _) in zip(prompts, completions, strict=True)],
            "labels": [
                [IGNORED] * len(prompt) + [token if learned else IGNORED for token, learned in zip(ids, own, strict=True)]
                for prompt, (ids, own) in zip(prompts, completions, strict=True)
            ],
        }
    )
    settings = _settings(model, steps, batch_size, learning_rate, seed) | {"train_sampling_strategy": "random" if shuffle else "sequential"}
    return _fit(LeanSFTTrainer, SFTConfig, settings, model, tokenizer, dataset, stage)


def fit_preferences(
    model: Any, tokenizer: Any, pairs: list[dict[str, Any]], *, steps: int, batch_size: int, learning_rate: float, seed: int, stage: str
) -> list[float]:
    """Train a one-output sequence classifier in place to score `chosen` above `rejected` after the same `prompt`.

    Returns:
        The mean Bradley-Terry loss (nats per pair) of every step's batch, before that step's update.

    Raises:
        UserError: weights are half precision or not finite, or the loss or its gradient is not; names `stage` and the cause.
    """
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    encoded = _encode_sides(model, tokenizer, pairs, stage)
    columns = {f"{side}_ids": [prompt + completion for prompt, completion in rows] for side, rows in encoded.items()}
    settings = _settings(model, steps, batch_size, learning_rate, seed)
    return _fit(RewardTrainer, RewardConfig, settings, model, tokenizer, Dataset.from_dict(columns), stage)


def fit_implicit_reward(
    model: Any,
    tokenizer: Any,
    pairs: list[dict[str, Any]],
    *,
    beta: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    stage: str,
) -> list[float]:
    """Train a causal LM in place by direct preference optimisation against a copy of itself (see `vrpo.rewards.implicit`).

    Returns and raises as `fit_preferences`.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class EncodedDPOTrainer(DPOTrainer):
        """Takes token ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    encoded = _encode_sides(model, tokenizer, pairs, stage)
    columns = {f"{side}_ids": [completion for _, completion in rows] for side, rows in encoded.items()}
    columns["prompt_ids"] = [prompt for prompt, _ in encoded["chosen"]]
    settings = _settings(model, steps, batch_size, learning_rate, seed) | {"beta": beta}
    dataset = Dataset.from_dict(columns)
    return _fit(EncodedDPOTrainer, DPOConfig, settings, model, tokenizer, dataset, stage, ref_model=copy.deepcopy(model))


def _encode_sides(model: Any, tokenizer: Any, pairs: list[dict[str, Any]], stage: str) -> dict[str, list[tuple[list[int], list[int]]]]:
    prompts = [pair["prompt"] for pair in pairs]
    encoded = {side: encode_pairs(tokenizer, prompts, [pair[side] for pair in pairs], model) for side in ("chosen", "rejected")}
    for side, rows in encoded.items():
        check_tokens(model, [prompt + completion for prompt, completion in rows], 0, f"{stage}: {side} response", training=True)
    return encoded


def _settings(model: Any, steps: int, batch_size: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """Settings common to TRL's trainers: step-based, seeded, on the model's device and in its dtype, nothing saved or reported."""
    return {
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": max(1, steps // 10),
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "max_length": None,
        "seed": seed,
        "use_cpu": model.device.type == "cpu",
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,  # `_fit` draws the bar
        "report_to": [],
        "save_strategy": "no",
    }


def _fit(
    trainer_class: Any, config_class: Any, settings: dict[str, Any], model: Any, tokenizer: Any, dataset: Any, stage: str, **options: Any
) -> list[float]:
    """Run a TRL trainer, which gets `options` too; the loss of every step."""
    from tqdm import tqdm
    from transformers import PrinterCallback, TrainerCallback

    refuse_half_weights(stage, model.parameters())
    if weight := broken_weight(model):
        raise UserError(f"{stage}: the model's weight {weight} holds NaN or infinity; use another copy of the model")
    losses: list[float] = []
    use_cache = model.config.use_cache

    class Watch(TrainerCallback):
        """Collects losses, shows progress, stops at the first step that is not finite."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            loss, norm = logs["loss"], logs["grad_norm"]
            if not (math.isfinite(loss) and math.isfinite(norm)):
                rate = f"{stage}.learning_rate = {args.learning_rate:g}"
                cause = f"with {rate}; lower it, or look for" if state.global_step > 1 else "before any update; look for"
                raise UserError(
                    f"{stage}: loss {loss} and gradient norm {norm} at step {state.global_step} {cause} broken rows in the data"
                )
            losses.append(loss)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

    with TemporaryDirectory() as unused, tqdm(total=settings["max_steps"], desc=stage, unit="step") as bar:  # the trainer wants a folder
        config = config_class(output_dir=unused, **settings)
        trainer = trainer_class(model=model, args=config, train_dataset=dataset, processing_class=tokenizer, callbacks=[Watch()], **options)
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:
            vars(model).pop("forward", None)  # SFTTrainer wraps the model's forward; hand back the model's own
            model.config.use_cache = use_cache  # ... and switches its cache off
            model.eval()
    return losses
