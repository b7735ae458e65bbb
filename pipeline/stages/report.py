"""Compare the methods: one summary, one report as Markdown and as a self-contained HTML page, and its figures.

Reads `data/evaluations/*.json`, `data/runs/*/{log.jsonl,run.json}`, `data/metrics/*.json` and `data/labels/noise.json`;
everything but the evaluations may be missing, and the report then says less. Writes `data/reports/summary.json`,
`report.md`, `report.html` and `figures/*.png`. Shares are 0..1 in the summary. What the run cost where it ran is not among them, so that the
same run again gives the same bytes: that goes to `data/reports/costs.json` and `costs.html`, which neither git nor DVC keeps.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

from pipeline.files import read_json, read_jsonl, write_atomically, write_json
from pipeline.params import Params
from pipeline.reporting.runs import Run, compare, is_number, learning_areas, load_runs, measures_of
from pipeline.stages.stage import main
from pipeline.workspace import HERE, Workspace
from vrpo.metrics.statistics import interval
from vrpo.tasks.base import Measures

TEMPLATES = Path(__file__).parents[1] / "reporting" / "templates"
AVERAGED = (
    "accuracy",
    "accuracy_init",
    "response_length",
    "length_inflation",
    "proxy_gap",
    "rollouts",
    "rollouts_warmup",
    "policy_updates",
)
CRITIC = ("ev_observed", "ev_clean", "corr_mc", "corr_mc_start", "corr_mc_end")


def run(params: Params, record: Any, workspace: Workspace = HERE) -> dict[str, float | int | str]:
    """Write summary, report and figures.

    Raises:
        UserError: there is no evaluation of the matrix in params.yaml, or one is not what `evaluate` writes.
    """
    from pipeline.reporting import costs, figures, sections

    runs = load_runs(params, workspace)
    summary = summarise(params, runs, register_champion(record, runs, workspace), workspace)
    shutil.rmtree(workspace.reports / "figures", ignore_errors=True)
    images = figures.draw(runs, summary, workspace.reports / "figures")
    content = sections.build(params, runs, summary, images)
    for name, autoescape in (("report.html", True), ("report.md", False)):
        write_atomically(workspace.reports / name, _render(f"{name}.jinja", content, autoescape))
    write_json(workspace.reports / "summary.json", summary)
    spent = costs.collect(params, runs, workspace.costs)
    write_json(workspace.reports / "costs.json", spent)
    page = _render("report.html.jinja", costs.build(spent, summary["confidence"]), autoescape=True)
    write_atomically(workspace.reports / "costs.html", page)
    for name in ("summary.json", "report.md", "report.html", "figures", "costs.html"):
        record.artifact(workspace.reports / name)
    print(f"{len(runs)} runs compared: {workspace.reports}/report.html")
    return metrics_of(summary)


def summarise(params: Params, runs: list[Run], champion: str | None, workspace: Workspace) -> dict[str, Any]:
    """The contents of summary.json."""
    confidence = params.report.confidence
    accuracies = {run.name: run.evaluation["accuracy"]["mean"] for run in runs}
    areas = learning_areas(runs)
    cells = {f"{method}-{seed}" for method, seed in itertools.product(params.methods, params.seeds)}
    measures = measures_of(params, runs)
    methods, keys = {}, (*AVERAGED, *CRITIC, *(measures.shares if measures else ()))
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        values = {key: [value for run in own if is_number(value := _value(run.evaluation, key, measures))] for key in keys}
        values["aulc"] = [areas[run.name] for run in own if run.name in areas]
        methods[method] = {key: interval(found, confidence) if found else None for key, found in values.items()}
    noise = workspace.labels / "noise.json"
    return {
        "profile": params.profile,
        "confidence": confidence,
        "champion": champion,
        "runs": [run.evaluation for run in runs],
        "missing_runs": sorted(cells - {run.name for run in runs}),
        "methods": methods,
        "comparisons": compare(runs, accuracies, "accuracy", confidence) + compare(runs, areas, "aulc", confidence),
        "label": read_json(noise) if noise.exists() else None,
        "health": [{"method": run.method, "seed": run.seed, **warning} for run in runs for warning in run.info.get("health") or []],
    }


def _value(evaluation: dict[str, Any], key: str, measures: Measures | None) -> Any:
    if key in CRITIC:
        return (evaluation["critic"] or {}).get(key)
    if measures and key in measures.shares:
        return evaluation[measures.name][key]
    return evaluation[key]["mean"] if key == "accuracy" else evaluation[key]


def register_champion(record: Any, runs: list[Run], workspace: Workspace) -> str | None:
    """Propose the policy with the best last *validation* accuracy (the test split only reports) as champion; returns its run's name."""
    from pipeline.tracking.file import digest

    known = {run.name: curve[-1] for run in runs if (curve := run.curve("validation/accuracy")[1])}
    validation = workspace.prepared / "validation.jsonl"
    measured = {"n": len(read_jsonl(validation)), "data": digest(validation)[:16]} if validation.exists() else {}
    candidates = [{**run.evaluation, "accuracy": {"mean": known[run.name], **measured}} for run in runs if run.name in known]
    return record.champion(candidates, workspace.runs) if candidates else None


def metrics_of(summary: dict[str, Any]) -> dict[str, float | int | str]:
    """Headline numbers for data/metrics/report.json."""
    metrics: dict[str, float | int | str] = {"runs": len(summary["runs"]), "health_warnings": len(summary["health"])}
    metrics |= {f"accuracy/{method}": values["accuracy"]["mean"] for method, values in summary["methods"].items()}
    metrics |= {f"{row['metric']}/{row['a']}_minus_{row['b']}": row["mean_diff"] for row in summary["comparisons"]}
    return metrics


def _render(template: str, content: dict[str, Any], autoescape: bool) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=autoescape, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(**content)


if __name__ == "__main__":
    main("report", run, __doc__)
