"""vLLM as the sampler, in a process and an environment of its own (`make vllm`). The trainer never imports it.

Weights go over as a file, which says their version. The engine answers with the version that it has read, and with log-probabilities of a
short text, which are held against the model's own: an engine with other weights is an error and not a worse sampler.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vrpo.config import GenerationConfig
from vrpo.data.batch import Rollout
from vrpo.data.text import pad_prompts
from vrpo.errors import UserError
from vrpo.models.forward import read_logprobs
from vrpo.models.limits import position_limit
from vrpo.models.lora import without_lora
from vrpo.rollout.process import EngineDied, EngineProcess
from vrpo.rollout.sampler import Sampler
from vrpo.seeding import derive_seed

logger = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("vllm_worker.py")
COLDEST = 0.01  # vLLM samples at no lower temperature
PROBE_TOKENS = 16
PROBE_NATS = {"float32": 0.01, "bfloat16": 0.5, "float16": 0.5}  # mean difference that rounding may make; with other weights it is several
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")  # the trainer's, not vLLM's


class VLLMSampler(Sampler):
    """A vLLM engine that samples from a copy of the model's weights, in the precision of the forward passes beside it.

    In float32 a sample depends on its prompt, the seed and its place, as it should. In half precision it depends on the rows beside it too,
    by rounding: runs are then not the same each time. Log-probabilities of two implementations are never quite the same.

    The engine starts at the first sample, on the model's device; of several processes each has its own. One that dies is started again with
    the current weights, once for a call of `sample`.
    """

    exact_logprobs = False

    def __init__(self, model: Any, tokenizer: Any, generation: GenerationConfig) -> None:
        super().__init__(model, tokenizer, generation)
        if generation.temperature < COLDEST:
            raise UserError(f"generation.temperature = {generation.temperature:g}: vLLM samples at {COLDEST} or more; raise it")
        self.python = _python()
        whole = without_lora(model)
        self.config = copy.deepcopy(whole.config)
        self.config.architectures = [type(whole).__name__]
        # On a CPU vLLM keeps the old head when a tied embedding is loaded anew: it gets one of its own.
        self.tied = dict(whole.all_tied_weights_keys) if self.config.get_text_config().tie_word_embeddings else {}
        self.config.get_text_config().tie_word_embeddings = self.config.tie_word_embeddings = False
        self.vocabulary = whole.get_input_embeddings().weight.shape[0]
        self.probe = torch.randint(self.vocabulary, (PROBE_TOKENS,), generator=torch.Generator().manual_seed(0)).tolist()
        self.folder: TemporaryDirectory | None = None
        self.version: int | None = None  # of the weights in the folder
        self.expected: list[float] = []  # log-probabilities of the probe under them
        self.engine: EngineProcess | None = None
        self.loaded: int | None = None  # the version that the engine has proven

    def update(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        if version == self.version:
            return
        if self.folder is None:
            self.folder = TemporaryDirectory(prefix="vrpo-vllm-", ignore_cleanup_errors=True)
            self.config.save_pretrained(self.folder.name)
        file = Path(self.folder.name) / "model.safetensors"
        partial = file.with_suffix(".partial")
        tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights if name not in self.tied}
        tensors |= {name: tensors[source].clone() for name, source in self.tied.items()}
        try:
            save_file(tensors, partial, metadata={"format": "pt", "version": str(version)})
            partial.replace(file)
        except OSError as error:
            raise UserError(
                f"{file}: the engine's weights could not be written ({error}); free it, or set TMPDIR to another folder"
            ) from error
        self.version, self.expected = version, self._read_probe()

    def sample(
        self, prompts: Sequence[Sequence[int]], *, seed: int, places: Sequence[int] | None = None, limits: Sequence[int] | None = None
    ) -> Rollout:
        """See `Sampler.sample`.

        Raises:
            UserError: the engine dies twice, or at its start; it has other weights than the model; what it answers is no sample.
        """
        if self.version is None:  # nobody trains the model
            self.update(without_lora(self.model).state_dict().items(), 0)
        places = range(len(prompts)) if places is None else places
        limits = [self.generation.max_new_tokens] * len(prompts) if limits is None else list(limits)
        self._check_lengths(prompts, limits)
        seeds = [derive_seed(seed, place) for place in places]
        answer = self._answer([list(prompt) for prompt in prompts], seeds, limits, self.generation.temperature, self.ends)
        tokens, logprobs = self._checked(answer, limits)
        width = max(map(len, tokens))
        responses, mask = torch.full((len(tokens), width), self.pad), torch.zeros(len(tokens), width, dtype=torch.bool)
        found = torch.zeros(len(tokens), width)
        for row, (ids, own) in enumerate(zip(tokens, logprobs, strict=True)):
            responses[row, : len(ids)], mask[row, : len(ids)], found[row, : len(ids)] = torch.tensor(ids), True, torch.tensor(own)
        return Rollout(*pad_prompts(prompts, self.pad), responses, mask, found)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.end()
        self.engine = self.loaded = None

    def _answer(self, *arguments: Any) -> dict[str, Any]:
        """What a running engine with the model's weights says to a question for samples."""
        try:
            restarted = False
            while True:
                proven = self.loaded is not None
                try:
                    if self.engine is None:
                        self.engine = self._start()
                    if self.loaded != self.version:
                        self._load()
                    return self.engine.ask("sample", *arguments)
                except EngineDied as error:
                    if restarted or not proven:
                        when = "died again after it was started anew" if restarted else "does not start"
                        raise UserError(
                            f"generation.engine = vllm: the engine {when} ({error}); the last checkpoint is kept. See its settings "
                            "(generation.engine_settings) and memory, or take `engine: transformers`"
                        ) from error
                    logger.warning("the vLLM engine died (%s); it is started again with weights of version %d", error, self.version)
                    self.close()
                    restarted = True
        except BaseException:  # an interrupt too: its answer would be taken for that to the next question
            self.close()
            raise

    def _start(self) -> EngineProcess:
        device = self.model.device.type
        half = torch.is_autocast_enabled(device)
        self.dtype = str(torch.get_autocast_dtype(device) if half else self.model.dtype).removeprefix("torch.")
        settings = {"dtype": self.dtype, "max_num_seqs": self.generation.batch_size} | (self.generation.engine_settings or {})
        command = [self.python, "-I", str(WORKER), self.folder.name, str(os.getpid()), json.dumps(settings)]
        return EngineProcess(command, Path(self.folder.name), _environment(self.python, self.folder.name, self.model.device))

    def _load(self) -> None:
        """Have the engine take the weights of the folder, and prove it."""
        answer = self.engine.ask("load", self.probe)
        if answer.get("version") != self.version:
            raise UserError(f"generation.engine: it has weights of version {answer.get('version')}, the policy is at {self.version}: stale")
        found = answer.get("logprobs") or [math.nan]
        apart = sum(abs(a - b) for a, b in zip(found, self.expected, strict=False)) / len(self.expected)
        if len(found) != len(self.expected) or not apart <= PROBE_NATS[self.dtype]:
            raise UserError(
                f"generation.engine: its log-probabilities of a text are {apart:.3g} nats from the model's own, more than {self.dtype} "
                f"explains: weights half loaded, or a {self.config.architectures[0]} that vLLM computes otherwise; take `engine: transformers`"
            )
        self.loaded = self.version

    def _read_probe(self) -> list[float]:
        """Log-probabilities of the probe's tokens but the first, under the model."""
        ids, training = torch.tensor([self.probe]), self.model.training
        self.model.eval()
        mask = torch.ones_like(ids, dtype=torch.bool)
        text = Rollout(ids[:, :1], mask[:, :1], ids[:, 1:], mask[:, 1:], torch.zeros(1, PROBE_TOKENS - 1))
        found = read_logprobs(self.model, text, 1.0, 1)[0].tolist()
        self.model.train(training)
        return found

    def _check_lengths(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
        """vLLM would cut a response that grows out of the model's positions, computed ones too."""
        longest, limit = max(len(prompt) + own for prompt, own in zip(prompts, limits, strict=True)), position_limit(self.model)
        if limit and longest > limit[1]:
            raise UserError(
                f"generation.engine = vllm: a prompt and its response may have {longest} tokens, the model {limit[1]} positions "
                f"(config.{limit[0]}); lower generation.max_new_tokens or max_turns, or shorten prompts"
            )

    def _checked(self, answer: dict[str, Any], limits: Sequence[int]) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and their log-probabilities, if they are samples of the model."""
        tokens, logprobs, wrong = answer.get("tokens"), answer.get("logprobs"), ""
        if answer.get("version") != self.version:
            wrong = f"they are of weights of version {answer.get('version')}, the policy is at {self.version}"
        elif not isinstance(tokens, list) or len(tokens) != len(limits):
            wrong = f"they are {len(tokens) if isinstance(tokens, list) else 'no'} responses to {len(limits)} prompts"
        elif not isinstance(logprobs, list) or [*map(len, logprobs)] != [*map(len, tokens)]:
            wrong = "they have not one log-probability a token"
        elif outside := [token for ids in tokens for token in ids if not 0 <= token < self.vocabulary]:
            wrong = f"token {outside[0]} is outside of the vocabulary of {self.vocabulary}"
        elif not all(math.isfinite(value) for own in logprobs for value in own):
            wrong = "a log-probability is not finite; look at the model's weights, and use bfloat16 or float32"
        elif not all(_whole(ids, limit, self.ends) for ids, limit in zip(tokens, limits, strict=True)):
            wrong = "a response ends neither at an end-of-text token nor at its limit"
        if wrong:
            self.close()
            raise UserError(f"generation.engine: its samples are wrong: {wrong}")
        return tokens, logprobs


def _whole(ids: Sequence[int], limit: int, ends: Sequence[int]) -> bool:
    """Whether a response is cut at its limit or ends where one does, and nowhere before."""
    return 0 < len(ids) <= limit and (len(ids) == limit or ids[-1] in ends) and not any(token in ends for token in ids[:-1])


def _python() -> str:
    """The interpreter of vLLM's environment: beside that of this process, or the one that VRPO_VLLM_PYTHON names."""
    python = os.environ.get("VRPO_VLLM_PYTHON") or str(Path(sys.prefix).with_name(".venv-vllm") / "bin/python")
    if not os.access(python, os.X_OK):
        raise UserError(
            f"generation.engine = vllm: there is no {python}; run `make vllm`, or set VRPO_VLLM_PYTHON to a Python that has vLLM"
        )
    return python


def _environment(python: str, folder: str, device: torch.device) -> dict[str, str]:
    """Variables of the engine's process: on the loopback interface, on this process's device, without telemetry and the hub, and with its
    temporary files where they go when it does."""
    kept = {name: value for name, value in os.environ.items() if name not in LAUNCHER and not name.startswith(("PYTHON", "TORCHELASTIC"))}
    own = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1", "TMPDIR": folder}
    own |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PATH": os.pathsep.join([str(Path(python).parent), kept.get("PATH", os.defpath)])}
    if device.type == "cpu":  # as many threads as the trainer, not bound to a core that others use
        own |= {"OMP_NUM_THREADS": str(torch.get_num_threads()), "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
        kept.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    else:
        visible = kept.get("CUDA_VISIBLE_DEVICES", "").split(",") if kept.get("CUDA_VISIBLE_DEVICES") else None
        own["CUDA_VISIBLE_DEVICES"] = visible[device.index or 0] if visible else str(device.index or 0)
    return kept | own
