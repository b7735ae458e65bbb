"""Stands in for vLLM behind `vrpo.rollout.engines.vllm_worker.serve`: the same program, questions and answers, sampling by transformers one
row after the other. Beside `dtype` its settings are what goes wrong, by name."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from safetensors import safe_open

from vrpo.data.batch import Rollout
from vrpo.models.forward import read_logprobs
from vrpo.rollout.engines.transformers import generate
from vrpo.rollout.engines.vllm_worker import serve


class Fake:
    """Settings:

    slow: seconds until the first answer. die: the calls of `sample`, counted over restarts, in which the process kills itself. stale: answers
    to `load` without reading again, "told" with the version that it has, "hidden" with the new one.
    wrong: what comes in place of an answer to `sample`. hang: never answers the second call.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        torch.set_num_threads(1)
        self.folder, self.settings, self.model, self.version, self.calls = folder, settings, None, None, 0
        unknown = settings.keys() - {"dtype", "max_num_seqs", "slow", "die", "stale", "wrong", "hang"}
        if unknown:
            raise TypeError(f"unexpected settings {sorted(unknown)}")
        time.sleep(settings.get("slow", 0))

    def load(self, probe):
        from transformers import LlamaForCausalLM

        stale = self.settings.get("stale") if self.model is not None else None
        if not stale:
            self.model = LlamaForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, self.settings["dtype"])).eval()
        if stale != "told":
            with safe_open(self.folder / "model.safetensors", "pt") as file:
                self.version = int(file.metadata()["version"])
        ids = torch.tensor([probe])
        mask = torch.ones_like(ids, dtype=torch.bool)
        text = Rollout(ids[:, :1], mask[:, :1], ids[:, 1:], mask[:, 1:], torch.zeros(1, len(probe) - 1))
        return {"version": self.version, "logprobs": read_logprobs(self.model, text, 1.0, 1)[0].tolist()}

    def sample(self, prompts, seeds, limits, temperature, ends):
        self.calls += 1
        if self.calls == 2 and self.settings.get("hang"):
            print("hangs")  # on stdout, as libraries do
            time.sleep(3600)
        with (self.folder / "calls").open("a+") as file:  # of all engines of this sampler
            file.write("x")
            calls = file.tell()
        if calls in self.settings.get("die", ()):
            os.kill(os.getpid(), 9)
        options = {"temperature": temperature, "eos_token_id": ends, "pad_token_id": ends[0]}
        rows = [
            generate(self.model, [prompt], seed=seed, max_new_tokens=limit, **options)
            for prompt, seed, limit in zip(prompts, seeds, limits, strict=True)
        ]
        tokens, logprobs = ([getattr(row, name)[0].tolist() for row in rows] for name in ("responses", "logprobs"))
        answer = {"version": self.version, "tokens": tokens, "logprobs": logprobs}
        match self.settings.get("wrong"):
            case "malformed":
                return ["no", "samples"]
            case "count":
                answer["tokens"], answer["logprobs"] = tokens[1:], logprobs[1:]
            case "lengths":
                logprobs[0].append(0.0)
            case "vocabulary":
                tokens[-1][0] = self.model.config.vocab_size
            case "nan":
                logprobs[-1][0] = float("nan")
            case "cut":
                tokens[0], logprobs[0] = [next(t for t in range(9) if t not in ends)], [-1.0]
            case "version":
                answer["version"] -= 1
        return answer


if __name__ == "__main__":
    serve(Fake)
