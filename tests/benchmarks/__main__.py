"""Run benchmarks one after the other, in one run on one thread; prints a table and writes data/reports/bench.json.

Every claim is a ratio of two measurements that alternate within this run, on the same model, prompts, lengths and updates.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import import_module
from importlib.metadata import version

from pipeline.arguments import new_parser
from vrpo.console.arguments import one_of, output_file

BENCHMARKS = ("rollout", "grpo", "ppo", "gemm", "semantics", "iteration")


def main() -> int:
    parser = new_parser("tests.benchmarks", __doc__)
    parser.add_argument("names", nargs="*", type=one_of(BENCHMARKS), metavar="name", help=f"which, by default all: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs; its figures mean nothing")
    parser.add_argument("--json", type=output_file, default="data/reports/bench.json", help="file to write, earlier results in it are kept")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # before torch is loaded
    import torch

    torch.set_num_threads(1)
    results = {} if options.quick or not options.json.is_file() else json.loads(options.json.read_text(encoding="utf-8"))
    for name in options.names or BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = import_module(f"tests.benchmarks.{name}").run(options.quick)
        results["machine"] = {
            "threads": 1,
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "transformers", "trl")},
        }
        if not options.quick:
            options.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(table(results))
    return 0


def table(results: dict[str, dict]) -> str:
    """Markdown, one line a claim."""
    lines = ["| what | measured | goal | met |", "| --- | --- | --- | --- |"]
    for name in BENCHMARKS:
        for claim in results.get(name, {}).get("claims", []):
            lines.append(f"| {claim['what']} | {claim['measured']} | {claim['goal']} | {'yes' if claim['met'] else 'no'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
