"""Figures of a study, one a table: its first metric by seed with mean and interval, and below it how the runs learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reporting.figures import RC, STYLES, style
from pipeline.study.file import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Look = tuple[Any, str, str]  # colour, marker, line style
LINES = ("-", "--", ":", "-.")  # variants of one method


def draw(study: str, tables: dict[str, Any], folder: Path) -> None:
    """Draw the tables (as in the study's JSON file) that have rows, to <study>_<table>.png.

    A panel for each combination of the axes but the last. Each panel has a scale of its own: a reward that ruins every method must not
    squeeze the differences under another.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        for name, table in tables.items():
            metric = table["metrics"][0]
            rows = [row for row in table["rows"] if metric in row["metrics"]]
            panels = list(dict.fromkeys(tuple(row["axes"][:-1]) for row in rows))
            if not panels:
                continue
            looks = _looks(list(dict.fromkeys(row["axes"][-1] for row in rows)))
            learned = any(row["curve"] for row in rows)
            heights = [1.0 + 0.26 * len(looks), 2.6][: 1 + learned]
            width = 0.07 * max(map(len, looks)) + max(2.4 * len(panels), 4.0)
            figure = Figure(figsize=(width, sum(heights)), layout="constrained")
            grid = figure.subplots(len(heights), len(panels), squeeze=False, height_ratios=heights)
            for column, panel in enumerate(panels):
                own = {row["axes"][-1]: row for row in rows if tuple(row["axes"][:-1]) == panel}
                _dots(grid[0][column], own, looks, metric)
                grid[0][column].set_title(", ".join(panel) or " ")
                if learned:
                    _curves(grid[1][column], own, looks)
                if column:
                    grid[0][column].set_yticklabels([])
                elif learned:
                    grid[1][column].set_ylabel("held-out accuracy (%)")
            figure.savefig(folder / f"{study}_{name}.png", dpi=110, metadata={"Software": None})
            if any("gain" in run for row in rows for run in row["training"]):
                _training(rows, panels, looks).savefig(folder / f"{study}_{name}_training.png", dpi=110, metadata={"Software": None})


def _looks(values: list[str]) -> dict[str, Look]:
    """Variants of a method (`ppo, states alone`) share its colour; values that name no method go from dark to light in their order."""
    import matplotlib

    words = [value.replace(",", " ").split()[0] for value in values]
    if not set(words) & set(STYLES):
        shades = matplotlib.colormaps["viridis"]
        return {value: (shades(0.9 * place / max(len(values) - 1, 1)), "o", "-") for place, value in enumerate(values)}
    return {
        value: (*style(word, words), LINES[words[:place].count(word) % len(LINES)])
        for place, (value, word) in enumerate(zip(values, words, strict=True))
    }


def _dots(axes: Axes, rows: dict[str, Any], looks: dict[str, Look], metric: str) -> None:
    """Every seed faintly, their mean with its interval."""
    label, _, scale = METRICS[metric]
    for place, (value, (colour, marker, line)) in enumerate(reversed(looks.items())):
        if value in rows:
            found = rows[value]["metrics"][metric]
            axes.plot([scale * seed for seed in rows[value]["seeds"]], [place] * found["n"], "|", color=colour, alpha=0.5, markersize=7)
            axes.plot(scale * found["mean"], place, marker, color=colour, markersize=5)
            if found["ci95"]:
                axes.plot([scale * bound for bound in found["ci95"]], [place, place], line, color=colour, linewidth=1.8)
    axes.set_yticks(range(len(looks)), list(reversed(looks)))
    axes.set_ylim(-0.6, len(looks) - 0.4)
    axes.set_xlabel(label)


def _training(rows: list[dict[str, Any]], panels: list[tuple[str, ...]], looks: dict[str, Look]) -> Figure:
    """Over the iterations, each run faintly and their mean: the gain, and the share of noise in the advantages' variance."""
    from matplotlib.figure import Figure

    shown = {"gain": "gain", "noise": "noise in the\nadvantages' variance (%)"}
    figure = Figure(figsize=(max(2.4 * len(panels), 4.0) + 1.5, 4.6), layout="constrained")
    grid = figure.subplots(len(shown), len(panels), squeeze=False, sharex=True)
    for column, panel in enumerate(panels):
        for axes, (name, label) in zip(grid[:, column], shown.items(), strict=True):
            for row in rows:
                runs = [run[name] for run in row["training"] if name in run] if tuple(row["axes"][:-1]) == panel else []
                if not runs:
                    continue
                colour, _, line = looks[row["axes"][-1]]
                scale = 1 if name == "gain" else 100
                for run in runs:
                    axes.plot(range(1, len(run) + 1), [scale * value for value in run], line, color=colour, alpha=0.15, linewidth=0.7)
                means = [scale * sum(values) / len(runs) for values in zip(*runs, strict=True)]
                axes.plot(range(1, len(means) + 1), means, line, color=colour, linewidth=1.6, label=row["axes"][-1])
            if name == "gain":
                axes.set_yscale("log")
                axes.set_title(", ".join(panel) or " ")
            if not column:
                axes.set_ylabel(label)
        grid[-1, column].set_xlabel("iteration")
    grid[-1, 0].legend(fontsize=7)
    return figure


def _curves(axes: Axes, rows: dict[str, Any], looks: dict[str, Look]) -> None:
    """Held-out accuracy over rollouts: each seed faintly, their mean."""
    for value, row in rows.items():
        if row["curve"]:
            colour, marker, line = looks[value]
            for curve in row["curves"]:
                points = sorted(curve.items())
                axes.plot([1e-3 * x for x, _ in points], [100 * y for _, y in points], line, color=colour, alpha=0.15, linewidth=0.7)
            x, y = ([scale * number for number in row["curve"][name]] for name, scale in (("rollouts", 1e-3), ("accuracy", 100)))
            axes.plot(x, y, line, color=colour, marker=marker, markersize=3, linewidth=1.4)
    axes.set_xlabel("rollouts (thousands)")
