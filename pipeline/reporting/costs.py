"""What a run cost on the machine that ran it: seconds, memory, code and machine, as numbers and as a page of its own.

Nothing of it is part of what git and DVC compare: it differs from one run to the next though nothing else does. Costs of single processes
are in `data/costs/<label>.json`, which `pipeline.stages.stage` writes; those of stages that did not run here are missing.
"""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline import graph
from pipeline.files import read_json
from pipeline.params import Params
from pipeline.reporting.runs import Run, is_number
from pipeline.reporting.sections import number, table_of, texts
from vrpo.metrics.statistics import interval


def collect(params: Params, runs: list[Run], folder: Path) -> dict[str, Any]:
    """The contents of costs.json: `git`, `machine`, `stages`, and `methods`, of each the seconds of its trainings with their interval over
    seeds (None where none ran here), seconds by phase, and its largest memory."""
    cells = {f"{method}-{seed}" for method, seed in itertools.product(params.methods, params.seeds)}
    methods = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method and run.phases]
        seconds = [run.seconds for run in own]
        phases = dict.fromkeys(phase for run in own for phase in run.phases)
        methods[method] = {
            "seconds": interval(seconds, params.report.confidence) if own else None,
            "phases": {phase: sum(run.phases.get(phase, 0.0) for run in own) / len(own) for phase in phases},
            "peak_memory_mb": max((run.peak_memory_mb for run in own), default=None),
        }
    return {"git": git_version(), "machine": machine(), "stages": stage_costs(cells, folder), "methods": methods}


def build(costs: dict[str, Any], confidence: float) -> dict[str, Any]:
    """Everything that the report's HTML template needs for a page of them."""
    host, text = costs["machine"], texts(confidence)
    facts = [
        ("Code", costs["git"]),
        ("Machine", f"{host['cpus']} CPUs ({host['processor']}), {host['memory_gb']} GB; Python {host['python']}, torch {host['torch']}"),
    ]
    tables = list(filter(None, [_stages(costs["stages"], text), _phases(costs["methods"], text)]))
    sections = [{"title": "Time", "text": text["costs"], "tables": tables, "figures": []}]
    return {"title": "What it cost", "facts": facts, "findings": [], "sections": sections, "heat_maps": [], "words": (), "colors": {}}


def stage_costs(cells: set[str], folder: Path) -> dict[str, dict[str, float]]:
    """Seconds and peak memory (MiB) per stage, summed (memory: largest) over the cells of the matrix."""
    costs: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("*.json")):
        stage, _, cell = path.stem.partition("-")
        found = read_json(path)
        if stage == "report" or (cell and cell not in cells) or not is_number(found.get("seconds")):
            continue
        cost = costs.setdefault(stage, {"processes": 0, "seconds": 0.0, "peak_memory_mb": 0.0})
        cost["processes"] += 1
        cost["seconds"] = round(cost["seconds"] + found["seconds"], 2)
        cost["peak_memory_mb"] = max(cost["peak_memory_mb"], found.get("peak_memory_mb") or 0.0)
    order = list(graph.stages())
    return {stage: costs[stage] for stage in sorted(costs, key=lambda stage: order.index(stage) if stage in order else len(order))}


def _stages(costs: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    rows = [[stage, str(c["processes"]), number(c["seconds"], 1), number(c["peak_memory_mb"] or None, 0)] for stage, c in costs.items()]
    if rows:
        total = [sum(cost[key] for cost in costs.values()) for key in ("processes", "seconds")]
        rows.append(["all stages", str(total[0]), number(total[1], 1), number(max(c["peak_memory_mb"] for c in costs.values()) or None, 0)])
    return table_of(["Stage", "Processes", "Seconds", "Peak memory (MiB)"], rows, text["stages_table"])


def _phases(costs: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    phases = list(dict.fromkeys(phase for cost in costs.values() for phase in cost["phases"]))
    rows = []
    for method, cost in costs.items():
        means = [cost["phases"].get(phase, 0.0) for phase in phases]
        if cost["phases"]:
            numbers = [*means, sum(means)]
            rows.append([method.upper(), *(number(value, 1) for value in numbers), number(cost["peak_memory_mb"], 0)])
    return table_of(["Method", *phases, "all phases", "Peak memory (MiB)"], rows, text["phases_table"])


def git_version() -> str:
    """Short commit, with "-dirty" if tracked files other than the pipeline's own outputs differ; "unknown" outside git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock", ":(exclude)data")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> dict[str, Any]:
    """What the run's times depend on."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpus": os.cpu_count(),
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system(),
        **{"python": platform.python_version(), "torch": installed("torch"), "transformers": installed("transformers")},
    }
