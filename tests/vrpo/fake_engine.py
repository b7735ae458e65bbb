"""Stands in for vLLM behind `vrpo.rollout.engines.vllm_worker.serve`: the same program, questions and answers. Beside those of vLLM's that the
sampler gives, its settings are what goes wrong, by name."""

import os
import sys
import time
from pathlib import Path
from random import Random

from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[2]))

from vrpo.rollout.engines.vllm_worker import serve

WRONG = {"light", "slow", "die", "stale", "wrong", "hang"}


class LightEngine:
    """An engine without a model, which starts at once: random tokens by seed and version of the weights.

    Settings:
        slow: seconds until the first answer.
        die: the calls of `sample`, counted over restarts, in which the process kills itself.
        stale: answers to later calls of `load` without reading again; "hidden": with the new version all the same.
        wrong: what is wrong about the answers to `sample`.
        hang: the call of `sample` that is never answered.
    """

    def __init__(self, folder: Path, settings: dict) -> None:
        if unknown := settings.keys() - {"dtype", "max_num_seqs"} - WRONG:
            raise TypeError(f"unexpected settings {sorted(unknown)}")
        self.folder, self.settings, self.version, self.calls = folder, settings, None, 0
        time.sleep(settings.get("slow", 0))

    def load(self, probe):
        stale = self.settings.get("stale") if self.version is not None else None
        if not stale:
            self.read()
        if stale != "told":
            with safe_open(self.folder / "model.safetensors", "np") as file:
                self.version = int(file.metadata()["version"])
        return {"version": self.version, "logprobs": self.probed(probe)}

    def sample(self, prompts, seeds, limits, temperature, ends):
        self.calls += 1
        if self.calls == self.settings.get("hang"):
            print("hangs", flush=True)  # on stdout, as libraries do
            time.sleep(3600)
        with (self.folder / "calls").open("a+") as file:  # of all engines of this sampler
            file.write("x")
            calls = file.tell()
        if calls in self.settings.get("die", ()):
            os.kill(os.getpid(), 9)
        tokens, logprobs = self.drawn(prompts, seeds, limits, temperature, ends)
        answer = {"version": self.version, "tokens": tokens, "logprobs": logprobs}
        match self.settings.get("wrong"):
            case "malformed":
                return ["no", "samples"]
            case "count":
                answer |= {"tokens": tokens[1:], "logprobs": logprobs[1:]}
            case "lengths":
                logprobs[0].append(0.0)
            case "vocabulary":
                tokens[-1][0] = 10**6
            case "nan":
                logprobs[-1][0] = float("nan")
            case "cut":
                tokens[0], logprobs[0] = tokens[0][:1], logprobs[0][:1]
            case "version":
                answer["version"] -= 1
        return answer

    def read(self):
        pass

    def probed(self, probe):
        return [0.0] * (len(probe) - 1)

    def drawn(self, prompts, seeds, limits, temperature, ends):
        usual = [token for token in range(10) if token not in ends]
        tokens = [Random(f"{seed} {self.version}").choices(usual, k=limit) for seed, limit in zip(seeds, limits, strict=True)]
        return tokens, [[-1.0] * len(row) for row in tokens]


class Engine(LightEngine):
    """One that samples with transformers, row after row."""

    def read(self):
        import torch
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, self.settings["dtype"])).eval()

    def probed(self, probe):
        import torch

        with torch.no_grad():
            said = torch.log_softmax(self.model(torch.tensor([probe])).logits[0, :-1].float(), -1)
        return [float(row[token]) for row, token in zip(said, probe[1:], strict=True)]

    def drawn(self, prompts, seeds, limits, temperature, ends):
        from vrpo.rollout.engines.transformers import generate

        options = {"temperature": temperature, "eos_token_id": ends, "pad_token_id": ends[0]}
        asked = zip(prompts, seeds, limits, strict=True)
        rows = [generate(self.model, [prompt], seed=seed, max_new_tokens=limit, **options) for prompt, seed, limit in asked]
        return tuple([getattr(row, name)[0].tolist() for row in rows] for name in ("responses", "logprobs"))


if __name__ == "__main__":
    serve(lambda folder, settings: (LightEngine if settings.get("light") else Engine)(folder, settings))
