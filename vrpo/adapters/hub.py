"""A trained model as the hub has it: files, value model and a card that says what it was trained on, with which noise, and what came out.

`trainer` is a `vrpo.adapters.trl.VRPOTrainer` throughout.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from vrpo.errors import UserError

FIGURES = {  # of a run's log, as the card calls them
    "reward/observed": "reward that training saw",
    "reward/clean": "reward without noise",
    "validation/accuracy": "held-out reward",
    "length/mean": "response length, tokens",
    "policy/kl": "KL to the initial model, nats per token",
    "critic/ev_observed": "explained variance of the critic",
}
TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

{{ base }} trained with reinforcement learning: {{ method }}, by the [VRPO workbench](https://arxiv.org/abs/2508.03058).

## Data

{{ data }}

## Reward

{{ reward }}

## Noise

{{ noise }}

## Method

{{ method }}, {{ steps }} optimiser steps of the policy on {{ rollouts }} sampled responses, seed {{ seed }}.

| setting | value |
| --- | --- |
{% for name, value in settings.items() -%}
| `{{ name }}` | {{ value }} |
{% endfor %}
## Figures

| | start | end |
| --- | --- | --- |
{% for name, (start, end) in figures.items() -%}
| {{ name }} | {{ start }} | {{ end }} |
{% endfor %}
{{ health }}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{{ address }}"), AutoTokenizer.from_pretrained("{{ address }}")
```
{% if value_model %}
`value_model/` holds the critic: the value of every prefix of a text (`vrpo.ValueModel.from_pretrained`).
{% endif %}"""


def is_folder(target: str) -> bool:
    """Whether a target is a folder here rather than an id on the hub: it is absolute, or begins with `.` or `~`."""
    return target.startswith((".", "~")) or os.path.isabs(target)


def write_model(trainer: Any, folder: Path) -> None:
    """Policy and tokenizer into a folder, the value model below it, and the card. What else is in the folder stays.

    Raises:
        UserError: the folder cannot be written to, or what was written is not what was trained.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".saving-") as place:
            trainer.trainer.save_pretrained(place)
            partial = Path(place)
            for file in sorted((partial / "policy").iterdir()):
                file.replace(folder / file.name)
            if (partial / "value_model").is_dir():
                shutil.rmtree(folder / "value_model", ignore_errors=True)
                (partial / "value_model").replace(folder / "value_model")
        model_card(trainer).save(folder / "README.md")
    except OSError as error:
        raise UserError(f"{folder}: the model could not be written ({error}); free the resource, or name another folder") from error


def push(trainer: Any, target: str, message: str) -> str:
    """Bring the model to the hub, or to a folder in its layout (see `is_folder`). Returns its address.

    Raises:
        UserError: the hub refuses or is out of reach, or the folder cannot be written to.
    """
    if is_folder(target):
        folder = Path(target).expanduser()
        write_model(trainer, folder)
        return str(folder)
    args = trainer.args
    api = HfApi(token=args.hub_token)
    try:
        address = api.create_repo(target, private=args.hub_private_repo, exist_ok=True)
        if args.hub_revision:
            api.create_branch(address.repo_id, branch=args.hub_revision, exist_ok=True)
        with TemporaryDirectory() as place:
            write_model(trainer, Path(place))
            api.upload_folder(repo_id=address.repo_id, folder_path=place, commit_message=message, revision=args.hub_revision)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"hub_model_id = {target!r}: cannot be pushed ({reason}); log in (`hf auth login`), correct the id, or name a folder as ./NAME"
        ) from error
    return str(address)


def model_card(trainer: Any) -> ModelCard:
    """What the model is and how it came about."""
    args, run, log = trainer.args, trainer.trainer, trainer.trainer.log
    target = args.hub_model_id or args.output_dir
    name = Path(target).name
    base = trainer.base_name
    known = bool(base) and not Path(base).exists()
    figures = {said: _ends([row[key] for row in log if key in row]) for key, said in FIGURES.items()}
    figures = {said: ends for said, ends in figures.items() if ends}
    settings = {key: value for key, value in args.to_dict().items() if value is not None and key in SHOWN}
    data = ModelCardData(
        base_model=base if known else None,
        datasets=[trainer.data_name] if trainer.data_name else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["vrpo", "reinforcement-learning", args.method],
    )
    warnings = [f"- {warning.check}, iteration {warning.iteration}: {warning.message}" for warning in run.health]
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        name=name,
        address=name if is_folder(target) or not args.hub_model_id else target,
        base=f"[{base}](https://huggingface.co/{base})" if known else f"`{Path(base).name}`" if base else "A model",
        method=args.method,
        data=_data(trainer),
        reward=_reward(trainer),
        noise="\n".join(f"- {channel.describe()}" for channel in trainer.channels) or "None.",
        steps=run.policy_updates,
        rollouts=run.rollouts,
        seed=args.seed,
        settings=settings,
        figures=figures,
        health="\n".join(["Health checks that spoke:", "", *warnings]) if warnings else "No health check spoke.",
        value_model=run.critic is not None,
    )


SHOWN = [
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_iterations",
    "num_generations",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "temperature",
    "max_completion_length",
    "beta",
    "kl_in",
    "epsilon",
    "gamma",
    "gae_lambda",
    "critic",
    "lora",
    "bf16",
    "fp16",
]


def _data(trainer: Any) -> str:
    name = f"[{trainer.data_name}](https://huggingface.co/datasets/{trainer.data_name}), " if trainer.data_name else ""
    columns = ", ".join(f"`{column}`" for column in trainer.rows[0] if not column.startswith("_"))
    held_out = f" {len(trainer.evaluation)} rows were held out to measure on." if trainer.evaluation else ""
    return f"{name}{len(trainer.rows)} rows with the columns {columns}.{held_out}"


def _reward(trainer: Any) -> str:
    return "\n".join(f"- `{name}`, weight {weight:g}" for name, weight in zip(trainer.rewards.names, trainer.rewards.weights, strict=True))


def _ends(values: list[float]) -> tuple[str, str] | None:
    return (f"{values[0]:.4g}", f"{values[-1]:.4g}") if values else None


def dataset_name(data: Any) -> str | None:
    """The hub id of a `datasets.Dataset`, where it came from there."""
    source = getattr(getattr(data, "info", None), "download_checksums", None) or {}
    return next(
        (address.removeprefix("hf://datasets/").partition("@")[0] for address in source if address.startswith("hf://datasets/")), None
    )
