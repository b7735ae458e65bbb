"""Which benchmarks there are, where their questions come from, and which of them are asked."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vrpo.errors import UserError
from vrpo.problems import read_problems
from vrpo.tasks.loader import load_domain
from vrpo.tasks.rows import Row

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


def load_questions(names: Iterable[str], count: int | None, files: Path | None, seed: int) -> dict[str, list[Row]]:
    """`count` questions of each benchmark, by name (see `load_benchmark`, `choose`)."""
    return {name: choose(load_benchmark(name, files, seed), count, seed) for name in names}


def load_benchmark(name: str, files: Path | None = None, seed: int = 0) -> list[Row]:
    """All questions of a benchmark in the common form (see `vrpo.problems`).

    Args:
        files: a folder of local copies; what is not there comes from the hub.
        seed: of the order of options.

    Raises:
        UserError: the name is unknown, or a source is missing, gated or malformed.
    """
    if name not in BENCHMARKS:
        raise UserError(f"{name}: no such benchmark; use one of {', '.join(BENCHMARKS)}")
    benchmark, domain = BENCHMARKS[name], load_domain(BENCHMARKS[name].domain)
    names = [f"{name}.jsonl", *([benchmark.file] if benchmark.file else [])] if files else []
    local = [files / copy for copy in names if (files / copy).is_file()]
    if local:
        return read_problems(str(local[0]), None, benchmark.split, domain, seed)
    return [row for subset in benchmark.subsets for row in read_problems(benchmark.hub, subset, benchmark.split, domain, seed)]


def choose(rows: list[Row], count: int | None, seed: int) -> list[Row]:
    """`count` of the rows by seed, in their order; all if there are no more."""
    if count is None or count >= len(rows):
        return rows
    return [rows[place] for place in sorted(random.Random(f"benchmark-{seed}").sample(range(len(rows)), count))]
