"""Evaluate a saved model on benchmarks by name: python -m pipeline.tools.benchmark MODEL NAME... [--samples K] [--problems N].

What `vrpo benchmark` does, with the parameters' `runtime` and `evaluate.seed`: each benchmark x model gets
data/benchmarks/<model>/<name>.json, its responses beside it, and a run in MLflow's experiment "vrpo-benchmarks".
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pipeline.arguments import new_parser
from pipeline.environment import TELEMETRY_OFF
from pipeline.params import load_params
from vrpo.benchmarks.measures import check_readable, file_name, in_words, measure
from vrpo.benchmarks.questions import load_questions
from vrpo.console.arguments import input_file, input_folder
from vrpo.console.benchmark import add_questions
from vrpo.console.environment import speak_safely
from vrpo.console.machine import check_machine
from vrpo.console.sampling import generation_of, load_model
from vrpo.errors import UserError

OUTPUT, FILES = Path("data/benchmarks"), Path("../shared/data")


def main() -> None:
    speak_safely()
    parser = new_parser("pipeline.tools.benchmark", __doc__)
    add_questions(parser)
    parser.add_argument("--files", type=input_folder, default=FILES, help="folder of local copies (default: %(default)s)")
    parser.add_argument("--params", default="params.yaml", type=input_file, help="for `runtime` and `evaluate.seed` (default: %(default)s)")
    options = parser.parse_args()
    os.environ |= {key: value for key, value in TELEMETRY_OFF.items() if key not in os.environ}
    try:
        _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _run(options: argparse.Namespace) -> None:
    from pipeline.tracking import record as tracking

    params = load_params(options.params)
    check_machine(params.runtime)
    params = params.model_copy(update={"generation": generation_of(options, params.generation)})
    questions = load_questions(options.names, options.problems, options.files, params.evaluate.seed)
    import torch

    from vrpo.rollout.sampler import new_sampler

    torch.set_num_threads(params.runtime.threads)
    policy, tokenizer = load_model(options.model, params.runtime)
    check_readable(tokenizer, options.model, questions)
    sampler = new_sampler(policy, tokenizer, params.generation)
    for name, rows in questions.items():
        label = "-".join(["benchmark", name, file_name(options.model)])
        tags = {"benchmark": name, "model": options.model}
        with tracking.record(label, stage="benchmark", params=params, tags=tags) as record:
            result = measure(sampler, options.model, name, rows, options.samples, params.evaluate.seed, OUTPUT)
            shown = {key: value["mean"] if isinstance(value, dict) and "mean" in value else value for key, value in result.items()}
            record.metrics({key.replace("@", "_at_"): value for key, value in shown.items() if isinstance(value, (int, float))})
        print(in_words(result))


if __name__ == "__main__":
    main()
