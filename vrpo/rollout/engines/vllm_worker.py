"""What runs in vLLM's own environment, as a program of one file: questions come as JSON lines on stdin, answers go to stdout.

Nothing of the project can be imported there. The first question starts the engine; it ends with the process that started it, however that
ends, and takes along whatever it has started. An exception is an end as well: the trainer starts another one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class VLLM:
    """vLLM on a folder with `config.json` and `model.safetensors`, whose metadata say which version of the weights it holds.

    Args:
        folder: of the model. The trainer replaces its weights.
        settings: of `vllm.LLM`, by name.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.llm: Any = None
        self.version: int | None = None

    def load(self, probe: Sequence[int]) -> dict[str, Any]:
        """Take the weights that lie in the folder; the answer names their version and has log-probabilities of a text under them."""
        from safetensors import safe_open
        from vllm import LLM, SamplingParams
        from vllm.platforms import current_platform

        if self.llm is None:
            own = {"skip_tokenizer_init": True, "logprobs_mode": "processed_logprobs", "generation_config": "vllm", "seed": 0}
            if current_platform.is_cpu():  # where nothing is compiled, and a seeded request whose prompt is split ends the engine
                own |= {"enforce_eager": True, "enable_chunked_prefill": False}
            self.llm = LLM(model=str(self.folder), **own, **self.settings)
        else:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self.folder)})
            self.llm.reset_prefix_cache()
        with safe_open(self.folder / "model.safetensors", "pt") as file:
            self.version = int(file.metadata()["version"])
        asked = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self.llm.generate([{"prompt_token_ids": list(probe)}], asked, use_tqdm=False)
        found = [said[token].logprob for token, said in zip(probe[1:], output.prompt_logprobs[1:], strict=True)]
        return {"version": self.version, "logprobs": found}

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], limits: Sequence[int], temperature: float, ends: Sequence[int]
    ) -> dict[str, Any]:
        """One response to each prompt: its tokens, the one that ends it included, and their log-probabilities."""
        from vllm import SamplingParams

        shared = {"temperature": temperature, "stop_token_ids": list(ends), "ignore_eos": True, "logprobs": 0, "detokenize": False}
        asked = [SamplingParams(seed=seed, max_tokens=limit, **shared) for seed, limit in zip(seeds, limits, strict=True)]
        outputs = [output.outputs[0] for output in self.llm.generate([{"prompt_token_ids": p} for p in prompts], asked, use_tqdm=False)]
        tokens = [list(output.token_ids) for output in outputs]
        logprobs = [[said[token].logprob for token, said in zip(output.token_ids, output.logprobs, strict=True)] for output in outputs]
        return {"version": self.version, "tokens": tokens, "logprobs": logprobs}


def serve(engine: Callable[[Path, dict[str, Any]], Any]) -> None:
    """Answer questions, each the name of one of the engine's methods and its arguments, until there are no more. Arguments of the program: the
    model's folder, the process that started this one, the engine's settings as JSON."""
    folder, parent, settings = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = engine(folder, settings)
    for line in sys.stdin:
        question = json.loads(line)
        answers.write(json.dumps(getattr(worker, question["do"])(*question["with"])) + "\n")
        answers.flush()
    _end_with(parent, folder)


def _end_with(parent: int, folder: Path) -> None:
    """Kill this process's group when the parent is gone, which then could not remove the folder either. That questions end does not tell in
    time: another child of the parent may hold the pipe open."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    serve(VLLM)
