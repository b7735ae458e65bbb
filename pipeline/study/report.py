"""Tables, figures and a Markdown page of a study, from its finished cells: data/reports/study/<name>.{json,md} and figures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.files import write_atomically, write_json
from pipeline.reporting.runs import is_number
from pipeline.study.figures import draw
from pipeline.study.file import METRICS, Cell, Study, Table, load_study
from pipeline.study.results import REPORTS, finished
from vrpo.metrics.statistics import area, headroom_share, paired, summary

Origin = tuple[int, float]  # of a run: its seed and its cold start's accuracy
Result = tuple[
    Origin, dict[str, float], dict[float, float], dict[str, list[float]]
]  # of a cell: origin, measures, held-out accuracy by rollouts, training
LAST = 5  # training batches at a run's end
COLLAPSE = 0.15  # a run that ends this far below its own best held-out accuracy has collapsed


def measures(line: dict[str, Any]) -> dict[str, float]:
    """The metrics of one cell that it has, by name (see `METRICS`)."""
    if line["kind"] == "critic":
        names = {"corr_mc_start": "corr_mc", "mse_mc": "mse_mc", "slope_mc": "slope_mc"}
        found = {name: line.get(f"critic/{key}") for name, key in names.items()}
        found |= {"gradient_cosine": line.get("gradient_cosine"), "seconds": line["seconds"].get("update"), "rollouts": line["rollouts"]}
        if "update" in line["seconds"]:
            found["critic_seconds"] = line["seconds"]["values"] + line["seconds"]["update"]
        return {name: value for name, value in found.items() if is_number(value)}
    log, critic = line["log"], line["critic"] or {}
    held_out = [value for value in log["validation/accuracy"] if value is not None]
    found = {"accuracy": line["accuracy"]["mean"], "held_out": held_out[-1], "best": max(held_out)}
    found["peak"] = float(log["validation/accuracy"].index(found["best"]))
    found["collapsed"] = float(max(held_out) - held_out[-1] > COLLAPSE)
    points = [(x, y) for x, y in zip(log["rollouts"], log["validation/accuracy"], strict=True) if y is not None]
    points = [(0.0, points[0][1]), *points]  # during the value warm-up the policy stays as it is
    found["area"] = area(([x for x, _ in points], [y for _, y in points]), 0.0, points[-1][0])
    found |= {key: line[key] for key in ("length_inflation", "proxy_gap", "rollouts")} | {"seconds": sum(line["seconds"].values())}
    found |= {key: critic.get(key) for key in ("ev_observed", "ev_clean", "corr_mc_start", "corr_mc_end")}
    found |= _batches(log)
    if "advantage/noise_variance" in log:
        pairs = zip(log["advantage/noise_variance"][1:], log["advantage/variance"][1:], strict=True)
        known = [(noise, total) for noise, total in pairs if noise is not None and total]
        if known:
            found["noise_variance"] = sum(noise for noise, _ in known) / len(known)
            found["noise_share"] = found["noise_variance"] / (sum(total for _, total in known) / len(known))
    return {name: value for name, value in found.items() if is_number(value)}


def _batches(log: dict[str, list[float | None]]) -> dict[str, float]:
    """Of a run's training batches: the clean reward of the last five and how far it is below the best five in a row; gain and evidence.

    A final accuracy hides a drop that came one iteration earlier; batches of training do not.
    """
    found = {}
    rewards = [value for value in log.get("reward/clean", [])[1:] if value is not None]  # the first is the value warm-up's
    if len(rewards) >= LAST:
        means = [sum(rewards[i : i + LAST]) / LAST for i in range(len(rewards) - LAST + 1)]
        found = {"last_batches": means[-1], "drop": max(means) - means[-1]}
    if "critic/gain" in log:
        gains = [value for value in log["critic/gain"][1:] if value is not None]
        found |= {"gain": sum(gains) / len(gains), "evidence": log["critic/evidence"][1]}
    return found


def _cold_start(line: dict[str, Any]) -> float:
    """Accuracy of the cold start that a cell began from; lines of an early format do not say."""
    return line.get("accuracy_init", line.get("stages", {}).get("sft", {}).get("accuracy", 1.0))


def _origin(cell: Cell, line: dict[str, Any]) -> Origin:
    """What a cell may be paired by. A seed's base model differs in its last digits from processor to processor, and all that follows with it."""
    return cell.seed, round(_cold_start(line), 3)


def _result(cell: Cell, line: dict[str, Any]) -> Result:
    log = line.get("log") or {"rollouts": [], "validation/accuracy": []}
    curve = {x: y for x, y in zip(log["rollouts"], log["validation/accuracy"], strict=True) if y is not None}
    return _origin(cell, line), measures(line), curve, _training(log)


def _training(log: dict[str, list[float | None]]) -> dict[str, list[float]]:
    """By iteration from the first update on: the gain, and how much of the advantages' variance is noise; what the log has of them."""
    found = {"gain": log.get("critic/gain", [None])[1:]}
    noise, whole = (log.get(f"advantage/{part}variance", [None])[1:] for part in ("noise_", ""))
    found["noise"] = [None if n is None or not total else n / total for n, total in zip(noise, whole, strict=True)]
    return {name: values for name, values in found.items() if values and None not in values}


def write(path: Path) -> None:
    """Write everything for the study at `path`; cells that are not there yet are counted."""
    study, cells = load_study(path)
    lines, tables = finished(path, study.cold_start), {}
    for name, table in study.tables.items():
        own = [cell for cell in cells if cell.table == name]
        known = {cell.key: lines[cell.key] for cell in own if cell.key in lines}
        cold = {cell.seed: start for cell in own if cell.key in known and (start := _cold_start(known[cell.key])) < cell.cold_start}
        own = [cell for cell in own if cell.seed not in cold]
        found = {cell.key: _result(cell, known[cell.key]) for cell in own if cell.key in known}
        tables[name] = _table(table, own, found) | {"left_out": cold}
    draw(path.stem, tables, REPORTS)
    for table in tables.values():
        for row in table["rows"]:  # each run's course is in the study's lines
            del row["curves"], row["training"]
    write_json(REPORTS / f"{path.stem}.json", {"study": path.stem, "tables": tables})
    write_atomically(REPORTS / f"{path.stem}.md", "\n".join(_page(path, study, tables)) + "\n")


def _table(table: Table, cells: list[Cell], found: dict[str, Result]) -> dict[str, Any]:
    """Rows (one a combination of the axes' values, each metric summarised over seeds) and paired comparisons."""
    names = table.shown
    groups: dict[tuple[str, ...], dict[Origin, dict[str, float]]] = {tuple(cell.axes.values()): {} for cell in cells}
    curves: dict[tuple[str, ...], list[dict[float, float]]] = {place: [] for place in groups}
    training: dict[tuple[str, ...], list[dict[str, list[float]]]] = {place: [] for place in groups}
    for cell in cells:
        if cell.key in found:
            origin, measured, curve, course = found[cell.key]
            groups[tuple(cell.axes.values())][origin] = measured
            curves[tuple(cell.axes.values())].append(curve)
            training[tuple(cell.axes.values())].append(course)
    rows = []
    for place, runs in groups.items():
        values = {name: [own[name] for own in runs.values() if name in own] for name in names}
        rows.append(
            {
                "axes": list(place),
                "metrics": {name: summary(known) for name, known in values.items() if known},
                "seeds": values[names[0]],
                "curve": _mean_curve(curves[place]),
                "curves": curves[place],
                "training": training[place],
            }
        )
    return {
        "title": table.title,
        "axes": list(table.axes),
        "metrics": names,
        "rows": rows,
        "comparisons": [found for metric in table.compared or names[:1] for found in _comparisons(table, groups, metric)],
        "cells": len(cells),
        "finished": sum(cell.key in found for cell in cells),
        "seeds": len({cell.seed for cell in cells}),
    }


def _mean_curve(curves: list[dict[float, float]]) -> dict[str, list[float]] | None:
    """Mean over runs wherever all were measured; None for fits without a run."""
    shared = sorted(set.intersection(*map(set, curves))) if curves else []
    means = [sum(curve[x] for curve in curves) / len(curves) for x in shared]
    return {"rollouts": shared, "accuracy": [round(mean, 4) for mean in means]} if shared else None


def _comparisons(table: Table, groups: dict[tuple[str, ...], dict[Origin, dict[str, float]]], metric: str) -> Iterator[dict[str, Any]]:
    """Paired differences for each of the table's `pairs` (two values of its last axis), and shares of the oracle's headroom.

    Only cells that began from the same models are paired.
    """
    *others, last = table.axes.values()
    for place in itertools.product(*others):

        def seeds(value: str, place: tuple[str, ...] = place) -> dict[Origin, float]:
            own = groups.get((*place, value), {})
            return {origin: row[metric] for origin, row in own.items() if metric in row}

        for a, b in table.pairs:
            if result := paired(seeds(a), seeds(b)):
                yield {"kind": "difference", "where": list(place), "a": a, "b": b, "metric": metric, **result}
        if table.reference:
            floor, ceiling = table.reference
            for value in last:
                if value not in (floor, ceiling) and (result := headroom_share(seeds(value), seeds(floor), seeds(ceiling))):
                    yield {"kind": "headroom", "where": list(place), "a": value, "b": f"{floor} to {ceiling}", "metric": metric, **result}


def _number(result: dict[str, Any], digits: int, scale: float) -> str:
    """Mean and interval as text."""
    text = f"{scale * result['mean']:.{digits}f}"
    if result["ci95"]:
        text += " [" + ", ".join(f"{scale * bound:.{digits}f}" for bound in result["ci95"]) + "]"
    return text


def _comparison(c: dict[str, Any]) -> str:
    """One line of a list."""
    where, (_, digits, scale) = ", ".join(c["where"]), METRICS[c["metric"]]
    where += ": " * bool(where)
    if c["kind"] == "headroom":
        return f"- {where}{c['a']} takes {_number(c, 0, 100)} % of the way from {c['b']} (n = {c['n']})"
    wins = f"higher in {c['wins']} of {c['n']} seeds (sign test p = {c['sign_p']:.2g}), lowest {scale * c['worst']:+.{digits}f}"
    return f"- {where}{c['a']} - {c['b']} = {_number(c, digits, scale)}; {wins}"


def _page(path: Path, study: Study, tables: dict[str, Any]) -> Iterator[str]:
    yield f"# Study {path.stem}\n"
    yield f"{study.description.strip()}\n"
    yield (
        f"Written by `python -m pipeline.study {path.as_posix()}`. Means over seeds with bootstrap 95 % intervals (of five seeds too narrow:\n"
        "they cover the mean 83 % of the time, of fourteen 91 %); IQM is the mean of the middle half.\n"
        "In the figures each stroke is a seed, each marker a mean; below, how the runs learned, mean over seeds; variants of a method are dashed."
    )
    for name, table in tables.items():
        shown = [metric for metric in table["metrics"] if any(metric in row["metrics"] for row in table["rows"])]
        yield f"\n## {table['title'] or name}\n"
        yield f"{table['finished']} of {table['cells']} cells are finished; {table['seeds']} seeds.\n"
        if table["left_out"]:
            seeds = ", ".join(f"{seed} ({100 * start:.0f} %)" for seed, start in sorted(table["left_out"].items()))
            yield f"Left out, whatever came of them, because their cold start is below {100 * study.cold_start_of(name):.0f} %: seed {seeds}.\n"
        if not table["finished"]:
            continue
        yield "| " + " | ".join([*table["axes"], "n", *(METRICS[metric][0] for metric in shown), f"IQM of {shown[0]}"]) + " |"
        yield "|" + " --- |" * (len(table["axes"]) + len(shown) + 2)
        for row in table["rows"]:
            found = row["metrics"]
            if shown[0] not in found:
                continue
            digits, scale = METRICS[shown[0]][1:]
            cells = [_number(found[metric], *METRICS[metric][1:]) if metric in found else "-" for metric in shown]
            cells.append(f"{scale * found[shown[0]]['iqm']:.{digits}f}")
            yield "| " + " | ".join([*row["axes"], str(found[shown[0]]["n"]), *cells]) + " |"
        for kind, heading in (("difference", "Paired differences"), ("headroom", "Share of the headroom")):
            for metric in dict.fromkeys(c["metric"] for c in table["comparisons"] if c["kind"] == kind):
                yield f"\n{heading} in {METRICS[metric][0]}:\n"
                yield from (_comparison(c) for c in table["comparisons"] if (c["kind"], c["metric"]) == (kind, metric))
        yield f"\n![{name}]({path.stem}_{name}.png)"
        if (REPORTS / f"{path.stem}_{name}_training.png").exists():
            yield f"\n![{name}, training]({path.stem}_{name}_training.png)"
