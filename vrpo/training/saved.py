"""What was saved, read back and compared with what was trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrpo.critics.value_model import ValueModel
from vrpo.errors import UserError
from vrpo.models.states import probing

logger = logging.getLogger(__name__)


def check_saved(folder: Path, policy: Any, critic: ValueModel | None) -> None:
    """Load the policy and the value model that `Trainer.save_pretrained` wrote as any user would, and ask them about a few tokens.

    Costs one more copy of each model for a moment, one after the other, on the trained one's device, and a forward pass over ten tokens;
    where memory does not suffice, the models stay unchecked and a log message says so.

    Raises:
        UserError: log-probabilities or values are not those of the trained models. The files stay where they are.
    """
    from transformers import AutoModelForCausalLM

    def read_policy() -> Any:
        trusted = not type(policy).__module__.startswith(("transformers.", "peft."))  # code that came with the model
        return AutoModelForCausalLM.from_pretrained(folder / "policy", trust_remote_code=trusted).to(policy.device)

    _compare(
        folder / "policy", read_policy, policy, lambda model, ids: model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    )
    if critic is not None:
        device = str(critic.backbone.device)
        _compare(
            folder / "value_model",
            lambda: ValueModel.from_pretrained(folder / "value_model", device=device),
            critic,
            lambda model, ids: model(ids, torch.ones_like(ids, dtype=torch.bool)).values,
        )


def _compare(folder: Path, load: Callable[[], Any], trained: Any, ask: Callable[[Any, Tensor], Tensor]) -> None:
    asked = trained.backbone if isinstance(trained, ValueModel) else trained
    try:
        with probing(asked) as ids:
            loaded = load().eval()
            expected, found = ask(trained, ids), ask(loaded, ids)
    except torch.OutOfMemoryError:
        logger.warning("%s: not compared with the trained model, for want of memory", folder)
        return
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"{folder}: what was saved cannot be loaded ({type(error).__name__}: {reason}); keep the run's checkpoint"
        ) from error
    off = float((found - expected).abs().max())
    tolerance = max(1e-4, 10 * torch.finfo(asked.dtype).eps) * max(1.0, float(expected.std()))  # adapters are folded in with rounding
    if torch.isfinite(expected).all() and not off <= tolerance:
        raise UserError(
            f"{folder}: what was saved is not what was trained: it is off by {off:.2g} on a few tokens; keep the run's checkpoint. "
            "With train.lora, leave tied layers and those outside the transformer out of target_modules"
        )
