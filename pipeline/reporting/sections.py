"""Tables and words of the report, as plain data that the Markdown and the HTML template lay out.

The longer prose is in `templates/captions.yaml`.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from pipeline.domains import domain_of
from pipeline.params import Params
from pipeline.reporting.figures import style
from pipeline.reporting.heat_maps import heat_map, scales_of
from pipeline.reporting.runs import Run, is_number, measures_of
from vrpo.tasks.base import Measures

CAPTIONS = Path(__file__).parent / "templates" / "captions.yaml"
METRICS = {"accuracy": "test accuracy", "aulc": "learning curve area"}
WORDS = ("Measure", "What it shows", "Check", "What to do")  # columns of text, not numbers
NOISE = {
    "label_accuracy": "labels that are right",
    "label_error": "set: preference pairs in the wrong order",
    "length_bias": "set: preference pairs decided by length",
    "wrong_reference_rate": "set: references replaced by wrong ones",
}
ALT = {
    "comparison": "Test accuracy per method with intervals, and paired differences between methods",
    "learning_curves": "Validation accuracy against total rollouts for each method",
    "rewards": "Clean and observed reward against total rollouts, one panel per method",
    "critic": "Critic diagnostics over training",
    "accuracy_by_length": "Test accuracy by problem length",
}


def build(params: Params, runs: list[Run], summary: dict[str, Any], images: dict[str, Path]) -> dict[str, Any]:
    """Everything the templates need: title, facts, findings and sections of text, tables and figures."""
    methods = list(summary["methods"])
    text, domain, measures = texts(summary["confidence"]), domain_of(params), measures_of(params, runs)
    figures = {name: _picture(path, name, text[name]) for name, path in images.items()}
    plan: list[tuple[str, str, list[Any], list[str]]] = [  # title, text, tables, figures
        ("Results", text["results"], [results_table(summary, text)], ["comparison"]),
        (measures.title, "", [_measures(measures, runs, summary)], []) if measures else ("", "", [], []),
        ("Paired differences", "", [differences_table(summary, text)], []),
        ("Learning", "", [], ["learning_curves", "rewards"]),
        ("Critic", "", [_critic(summary, text)], ["critic"]),
        ("Accuracy by problem length", "", [], ["accuracy_by_length"]),
        ("Noise in labels and rewards", "", [_labels(summary, text), _rewards(runs, summary, text)], []),
        ("Health warnings", "" if summary["health"] else text["healthy"], [_health(runs, summary)], []),
    ]
    sections = [
        {
            "title": title,
            "text": words,
            "tables": list(filter(None, tables)),
            "figures": [figures[name] for name in names if name in figures],
        }
        for title, words, tables, names in plan
    ]
    return {
        "title": f"{_enumerate([method.upper() for method in methods])} on {domain.titled(params.prepare.dataset)} with noisy rewards",
        "facts": facts(runs, summary),
        "findings": findings(summary),
        "sections": [section for section in sections if section["text"] or section["tables"] or section["figures"]],
        "heat_maps": heat_maps(runs),
        "heat_maps_text": text["heat_maps"],
        "words": WORDS,
        "colors": {method.upper(): style(method, methods)[0] for method in methods},
    }


def heat_maps(runs: list[Run]) -> list[dict[str, Any]]:
    """For the first seed of each method, a few responses token by token, each kind once."""
    first = {run.method: run for run in reversed(runs)}
    shown = {method: {response["kind"]: response for response in reversed(run.tokens)}.values() for method, run in first.items()}
    scales = scales_of([response for responses in shown.values() for response in responses])
    return [
        {"run": f"{method.upper()}, seed {first[method].seed}", "responses": [heat_map(response, scales) for response in shown[method]]}
        for method in dict.fromkeys(run.method for run in runs)
        if shown[method]
    ]


def texts(confidence: float) -> dict[str, str]:
    """The report's prose by name."""
    captions = yaml.safe_load(CAPTIONS.read_text(encoding="utf-8"))
    return {key: words.format(percent=f"{confidence:.0%}") for key, words in captions.items()}


def number(value: Any, digits: int = 2, scale: float = 1.0, sign: str = "") -> str:
    """A number with a true minus sign; a dash where there is none."""
    return f"{value * scale:{sign},.{digits}f}".replace("-", "−") if is_number(value) else "–"


def mean(result: dict[str, Any] | None, digits: int = 2, scale: float = 1.0) -> str:
    """The mean of an interval (see `vrpo.metrics.statistics.interval`)."""
    return number(result["mean"], digits, scale) if result else "–"


def spread(result: dict[str, Any] | None, digits: int = 2, scale: float = 1.0) -> str:
    """Mean ± half the interval; the mean alone where there is no interval."""
    half = f" ± {number((result['ci95'][1] - result['ci95'][0]) / 2, digits, scale)}" if result and result["ci95"] else ""
    return mean(result, digits, scale) + half


def verdict(comparison: dict[str, Any]) -> str:
    """What a paired interval allows to say, and no more."""
    if not comparison["ci95"]:
        return "one common seed, no interval: nothing shown"
    low, high = comparison["ci95"]
    if low <= 0 <= high:
        return "no difference shown (interval contains 0)"
    return f"{(comparison['a'] if low > 0 else comparison['b']).upper()} higher"


def facts(runs: list[Run], summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and value of the lines under the title."""
    noise = runs[0].evaluation["noise"] or {}
    rates = {"label_accuracy": "labels right", "label_error": "preferences wrong:"}
    noises = [str(noise.get("kind", "unknown")).replace("_", " ")]
    noises += [noise["function"]] if "function" in noise else []
    noises += [f"{name} {number(noise[key], 0, 100)} %" for key, name in rates.items() if is_number(noise.get(key))]
    noises += [channel["description"] for channel in noise.get("channels", [])]
    methods = ", ".join(method.upper() for method in summary["methods"])
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    found = [
        ("Profile", summary["profile"]),
        ("Runs", f"{len(runs)}: {methods} with seeds {seeds}"),
        ("Noise", ", ".join(noises)),
    ]
    if summary["champion"]:
        found.append(("Champion", f"{summary['champion']} (best last validation accuracy)"))
    found.append(("Time, memory, machine", "costs.html beside this page, where the stages ran"))
    if summary["missing_runs"]:
        found.append(("Missing", f"{', '.join(summary['missing_runs'])}: not evaluated, not in this report"))
    return found


def findings(summary: dict[str, Any]) -> list[str]:
    """The report in a few sentences."""
    lines = []
    for method, values in summary["methods"].items():
        count = values["accuracy"]["n"]
        start = f", from {mean(values['accuracy_init'], 1, 100)} % at the cold start" if values["accuracy_init"] else ""
        lines.append(f"{method.upper()}: {spread(values['accuracy'], 1, 100)} % test accuracy ({count} seed{'s' * (count > 1)}){start}.")
    for row in summary["comparisons"]:
        if row["metric"] == "accuracy":
            difference = f"{number(row['mean_diff'], 1, 100, '+')} points{_bounds(row, ' ')}"
            lines.append(f"{_pair(row)}: {difference}: {verdict(row)}.")
    return lines


def table_of(headers: list[str], rows: list[list[str]], caption: str = "") -> dict[str, Any] | None:
    """A table as the templates lay it out; None without rows."""
    return {"headers": headers, "rows": rows, "caption": caption} if rows else None


def _picture(path: Path, name: str, caption: str) -> dict[str, str]:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return {"path": f"{path.parent.name}/{path.name}", "uri": f"data:image/png;base64,{data}", "alt": ALT[name], "caption": caption}


def results_table(summary: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    """One row a method."""
    columns = {
        "Seeds": lambda v: str(v["accuracy"]["n"]),
        "Cold start (%)": lambda v: mean(v["accuracy_init"], 1, 100),
        "Accuracy (%)": lambda v: spread(v["accuracy"], 1, 100),
        "Length inflation (×)": lambda v: spread(v["length_inflation"]),
        "Proxy gap": lambda v: spread(v["proxy_gap"], 3),
        "Rollouts": lambda v: mean(v["rollouts"], 0),
        "for value warm-up": lambda v: mean(v["rollouts_warmup"], 0),
        "Policy updates": lambda v: mean(v["policy_updates"], 0),
    }
    rows = [[method.upper(), *(cell(values) for cell in columns.values())] for method, values in summary["methods"].items()]
    return table_of(["Method", *columns], rows, text["results_table"])


def _measures(measures: Measures, runs: list[Run], summary: dict[str, Any]) -> dict[str, Any] | None:
    """What only this domain has, one row a method."""
    largest = {key: max(value, key=int) for key, value in runs[0].evaluation[measures.name].items() if isinstance(value, dict)}

    def cell(method: str, key: str) -> str:
        if key in largest:
            own = [run.evaluation[measures.name][key][largest[key]] for run in runs if run.method == method]
            return number(sum(own) / len(own), 1, 100)
        values = summary["methods"][method][key]
        return spread(values, 1, 100) if key in measures.shares else mean(values, 2 if key == "length_inflation" else 1)

    headers = ["Method", *(heading.format(largest.get(key)) for heading, key in measures.columns.items())]
    rows = [[method.upper(), *(cell(method, key) for key in measures.columns.values())] for method in summary["methods"]]
    return table_of(headers, rows, measures.caption.format(percent=f"{summary['confidence']:.0%}"))


def differences_table(summary: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    """One row a paired comparison."""
    rows = []
    for row in summary["comparisons"]:
        seeds = ", ".join(str(seed) for seed in row["seeds"])
        rows.append([_pair(row), METRICS[row["metric"]], number(row["mean_diff"], 1, 100, "+"), _bounds(row) or "–", seeds, verdict(row)])
    headers = ["Difference", "Measure", "Mean (points)", f"{summary['confidence']:.0%} interval", "Seeds", "What it shows"]
    return table_of(headers, rows, text["differences_table"])


def _critic(summary: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    columns = {
        "corr_mc_start": "Monte Carlo correlation, start",
        "corr_mc_end": "end",
        "ev_observed": "Explained variance, observed return",
        "ev_clean": "clean return",
    }
    rows = [
        [method.upper(), *(spread(values[key]) for key in columns)]
        for method, values in summary["methods"].items()
        if any(values[key] for key in columns)
    ]
    return table_of(["Method", *columns.values()], rows, text["critic_table"])


def _labels(summary: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    acting = summary["runs"][0]["noise"] or {}
    label = (summary["label"] or {}) if acting.get("reward", "rule") == "rule" else acting  # learned rewards read no labels
    values = {NOISE.get(key, key.replace("_", " ")): value for key, value in label.items()}
    values |= {f"measured: {key.replace('_', ' ')}": value for key, value in (label.get("confusion") or {}).items()}
    rows = [[name, f"{value:,}" if isinstance(value, int) else number(value, 3)] for name, value in values.items() if is_number(value)]
    rows += [["set: noise on rewards", channel["description"]] for channel in acting.get("channels", [])]
    return table_of(["Labels", "Value"], rows, text["labels_table"])


def _rewards(runs: list[Run], summary: dict[str, Any], text: dict[str, str]) -> dict[str, Any] | None:
    """How wrong the rewards made from the labels turned out in training."""
    rows = []
    for method in summary["methods"]:
        own = [run for run in runs if run.method == method]
        rates = []
        for key in ("reward/true_positive_rate", "reward/false_positive_rate"):
            values = [value for run in own for value in run.curve(key)[1]]
            rates.append(sum(values) / len(values) if values else None)
        if None not in rates:
            rows.append([method.upper(), number(rates[0], 3), number(rates[1], 3), number(rates[0] - rates[1], 3)])
    headers = ["Rewards in training", "Of right responses (TPR)", "Of wrong responses (FPR)", "J = TPR − FPR"]
    return table_of(headers, rows, text["rewards_table"])


def _health(runs: list[Run], summary: dict[str, Any]) -> dict[str, Any] | None:
    """One row per run and check, which speaks once a run; "Times" counts the iterations of its log in which it fired."""
    logs, rows = {(run.method, run.seed): run.log for run in runs}, []
    for w in summary["health"]:
        metric = f"health/{w['check'].lower().replace(' ', '_')}"  # as `vrpo.metrics.health.health_metrics` names it
        times = sum(row.get(metric) == 1 for row in logs.get((w["method"], w["seed"]), ()))
        rows.append([f"{w['method'].upper()}, seed {w['seed']}", w["check"], str(w["iteration"]), number(times or None, 0), w["message"]])
    return table_of(["Run", "Check", "First iteration", "Times", "What to do"], rows)


def _pair(comparison: dict[str, Any]) -> str:
    return f"{comparison['a'].upper()} − {comparison['b'].upper()}"


def _bounds(comparison: dict[str, Any], prefix: str = "") -> str:
    """The interval in points; empty where there is none."""
    if not comparison["ci95"]:
        return ""
    low, high = (number(bound, 1, 100, "+") for bound in comparison["ci95"])
    return f"{prefix}[{low}, {high}]"


def _enumerate(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
