"""The evaluated runs of the matrix: reading them, and the statistics of their comparison."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from pipeline.domains import domain_of
from pipeline.files import read_json, read_jsonl
from pipeline.params import Params
from pipeline.workspace import Workspace
from vrpo.errors import UserError
from vrpo.metrics.statistics import area, interval
from vrpo.tasks.base import Measures

REQUIRED = (
    *("method", "seed", "domain", "noise", "accuracy", "accuracy_init", "response_length", "length_inflation", "critic"),
    *("proxy_gap", "rollouts", "rollouts_warmup", "policy_updates"),
)

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Run:
    """One cell of the matrix: its evaluation, the rows of its log, its run.json, some responses by tokens, and what training and evaluation
    cost here (all but the first may be empty)."""

    method: str
    seed: int
    evaluation: dict[str, Any]
    log: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    training_costs: dict[str, float] = field(default_factory=dict)
    evaluation_costs: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"

    @property
    def seconds(self) -> float:
        """Seconds of all training phases together; NaN where it was not trained here."""
        return sum(phases_of(self.training_costs).values()) or math.nan

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase of training and evaluation; none where it was not trained here."""
        trained = phases_of(self.training_costs)
        return trained | phases_of(self.evaluation_costs) if trained else {}

    @property
    def peak_memory_mb(self) -> float:
        """Of the training."""
        return self.training_costs.get("peak_memory_mb", math.nan)

    def curve(self, key: str) -> Curve:
        """Total rollouts (warm-up included) and values of one log key, where it is present and finite."""
        points = [(row["rollouts"], row[key]) for row in self.log if is_number(row.get(key)) and is_number(row.get("rollouts"))]
        return [float(x) for x, _ in points], [float(y) for _, y in points]

    def accuracy_curve(self) -> Curve:
        """Validation accuracy against total rollouts. Until the first policy update it is that of the cold start."""
        x, y = self.curve("validation/accuracy")
        start = self.info.get("accuracy_init")
        if x and is_number(start):
            still = [0.0, float(self.info.get("rollouts_warmup") or 0)]
            before = [rollouts for rollouts in dict.fromkeys(still) if rollouts < x[0]]
            x, y = before + x, [float(start)] * len(before) + y
        return x, y


def load_runs(params: Params, workspace: Workspace) -> list[Run]:
    """The runs of the matrix in params.yaml that have been evaluated, in its order; files of other cells are left out."""
    runs = []
    for method, seed in itertools.product(params.methods, params.seeds):
        path = workspace.evaluations / f"{method}-{seed}.json"
        if not path.exists():
            continue
        evaluation = read_json(path)
        missing = [key for key in REQUIRED if key not in evaluation]
        if missing:
            raise UserError(f"{path}: lacks {', '.join(missing)}; remove the file and run `dvc repro evaluate` again")
        folder = workspace.runs / f"{method}-{seed}"
        log = read_jsonl(folder / "log.jsonl") if (folder / "log.jsonl").exists() else []
        info = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
        tokens = workspace.tokens / f"{method}-{seed}.json"
        costs = [workspace.costs / f"{stage}-{method}-{seed}.json" for stage in ("train", "evaluate")]
        found = [read_json(path) if path.exists() else {} for path in costs]
        runs.append(Run(method, seed, evaluation, log, info, read_json(tokens, list) if tokens.exists() else [], *found))
    if not runs:
        raise UserError(f"{workspace.evaluations}: no evaluation of methods {params.methods} with seeds {params.seeds}; run `dvc repro`")
    return runs


def phases_of(costs: dict[str, Any]) -> dict[str, float]:
    """Seconds by phase out of what a stage cost."""
    return {key.removeprefix("seconds/"): value for key, value in costs.items() if key.startswith("seconds/")}


def measures_of(params: Params, runs: list[Run]) -> Measures | None:
    """What the domain measures beside accuracy, where the evaluations hold it."""
    measures = domain_of(params).measures
    return measures if measures and measures.name in runs[0].evaluation else None


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number (a bool is none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def learning_areas(runs: list[Run]) -> dict[str, float]:
    """Mean validation accuracy over the rollouts that all runs have in common, per run name."""
    curves = {run.name: run.accuracy_curve() for run in runs}
    curves = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    if not curves:
        return {}
    low, high = max(x[0] for x, _ in curves.values()), min(x[-1] for x, _ in curves.values())
    return {name: area(curve, low, high) for name, curve in curves.items()} if high > low else {}


def compare(runs: list[Run], values: dict[str, float], metric: str, confidence: float) -> list[dict[str, Any]]:
    """Paired differences a - b over common seeds for every pair of methods; the later method of the matrix comes first."""
    methods = list(dict.fromkeys(run.method for run in runs))
    comparisons = []
    for b, a in itertools.combinations(methods, 2):
        seeds = [run.seed for run in runs if run.method == a and f"{a}-{run.seed}" in values and f"{b}-{run.seed}" in values]
        if seeds:
            differences = [values[f"{a}-{seed}"] - values[f"{b}-{seed}"] for seed in seeds]
            result = interval(differences, confidence)
            comparisons.append({"a": a, "b": b, "metric": metric, "mean_diff": result["mean"], "ci95": result["ci95"], "seeds": seeds})
    return comparisons
