"""Figures of the report, as PNG files. Each method keeps its colour and marker everywhere; colours are safe for the colour-blind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reporting.runs import Curve, Run, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "regulated_gradient": ("#CC79A7", "v"),
    "regulated": ("#882255", "<"),
    "vrpo": ("#0072B2", "o"),
    "ppo": ("#D55E00", "s"),
    "grpo": ("#009E73", "^"),
}
SPARE = (("#4D4D4D", "D"), ("#E69F00", "P"), ("#56B4E9", "X"))
ROLLOUTS = "total rollouts (thousands, value warm-up included)"
RC = {
    **{"font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 9.5},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.labelcolor": "#333333"},
    **{"xtick.color": "#555555", "ytick.color": "#555555", "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.8},
    **{"axes.axisbelow": True, "legend.frameon": False, "lines.solid_capstyle": "round", "figure.facecolor": "white"},
}


def style(method: str, methods: list[str]) -> tuple[str, str]:
    """Colour and marker of a method; methods without their own take spare ones in order."""
    others = [name for name in methods if name not in STYLES]
    return STYLES.get(method) or SPARE[others.index(method) % len(SPARE)]


def draw(runs: list[Run], summary: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Draw every figure for which there is data; returns their files by name."""
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    with matplotlib.rc_context(RC):
        for name, plot in (
            ("comparison", _comparison),
            ("learning_curves", _learning_curves),
            ("rewards", _rewards),
            ("critic", _critic),
            ("accuracy_by_length", _accuracy_by_length),
        ):
            figure = Figure(layout="constrained")
            if plot(figure, runs, summary):
                images[name] = folder / f"{name}.png"
                figure.savefig(images[name], dpi=160, metadata={"Software": None})
    return images


def mean_curve(curves: list[Curve]) -> Curve:
    """Mean of piecewise linear curves over the range they share, at all their points there."""
    import numpy as np

    curves = [curve for curve in curves if curve[0]]
    if not curves:
        return [], []
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique([value for x, _ in curves for value in x if low <= value <= high])
    return grid.tolist(), np.mean([np.interp(grid, *curve) for curve in curves], axis=0).tolist()


def _by_method(runs: list[Run]) -> dict[str, list[Run]]:
    return {method: [run for run in runs if run.method == method] for method in dict.fromkeys(run.method for run in runs)}


def _end(runs: list[Run]) -> float:
    """Right end of the axes over rollouts, in thousands."""
    return 1.02 * max(row["rollouts"] for run in runs for row in run.log if is_number(row.get("rollouts"))) / 1000


def _lines(
    axes: Axes, curves: list[Curve], color: str, scale: tuple[float, float] = (0.001, 1.0), seeds: bool = True, **options: Any
) -> None:
    """The mean thick, each seed thin; `scale` of x (default: thousands) and y."""

    def plot(curve: Curve, **more: Any) -> None:
        axes.plot([x * scale[0] for x in curve[0]], [y * scale[1] for y in curve[1]], color=color, **more)

    if seeds and len(curves) > 1:
        for curve in curves:
            plot(curve, linewidth=0.8, alpha=0.35, linestyle=options.get("linestyle", "-"))
    plot(mean_curve(curves), linewidth=2.0, **options)


def _learning_curves(figure: Figure, runs: list[Run], summary: dict[str, Any]) -> bool:
    groups = {method: [run.accuracy_curve() for run in own] for method, own in _by_method(runs).items()}
    groups = {method: [curve for curve in curves if curve[0]] for method, curves in groups.items()}
    if not any(groups.values()):
        return False
    figure.set_size_inches(9.6, 3.9)
    axes = figure.subplots()
    for method, curves in groups.items():
        if curves:
            color, marker = style(method, list(groups))
            _lines(axes, curves, color, (0.001, 100), marker=marker, markersize=4.5, label=method.upper())
    warmup = max((run.evaluation["rollouts_warmup"] or 0 for run in runs), default=0) / 1000
    if warmup:
        axes.axvspan(0, warmup, color="#F3F0E6", zorder=0)
        note = {"rotation": 90, "va": "top", "ha": "right", "color": "#8A7F5C", "fontsize": 8.5}
        axes.annotate("value warm-up", (warmup, 1), (-3, -4), xycoords=("data", "axes fraction"), textcoords="offset points", **note)
    axes.set(xlabel=ROLLOUTS, ylabel="validation accuracy (%)", title="Validation accuracy, clean labels")
    axes.set_xlim(0, _end(runs))
    axes.legend(loc="lower right")
    return True


def _rewards(figure: Figure, runs: list[Run], summary: dict[str, Any]) -> bool:
    groups = {method: own for method, own in _by_method(runs).items() if any(run.curve("reward/observed")[0] for run in own)}
    if not groups:
        return False
    figure.set_size_inches(9.6, 3.1)
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (method, own) in zip(panels, groups.items(), strict=True):
        color, _ = style(method, list(groups))
        for key, dash, label in (
            ("reward/clean", "-", "clean (never trained on)"),
            ("reward/observed", (0, (3, 1.5)), "observed (trained on)"),
        ):
            curves = [curve for run in own if (curve := run.curve(key))[0]]
            if curves:
                _lines(axes, curves, color if dash == "-" else "#999999", linestyle=dash, label=label)
        axes.set_title(method.upper(), color=color)
        axes.set_xlim(0, _end(runs))
    panels[0].set_ylabel("mean reward of the rollouts (0..1)")
    figure.legend(
        *panels[-1].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8.5
    )  # beside the lines, never over them
    figure.supxlabel(ROLLOUTS, fontsize=9.5, color="#333333")
    return True


def _comparison(figure: Figure, runs: list[Run], summary: dict[str, Any]) -> bool:
    groups = _by_method(runs)
    comparisons = [row for row in summary["comparisons"] if row["metric"] == "accuracy"]
    figure.set_size_inches(9.6, 1.3 + 0.55 * max(len(groups), len(comparisons)))
    left, right = figure.subplots(1, 2)
    percent = f"{summary['confidence']:.0%}"
    for row, (method, own) in enumerate(groups.items()):
        color, marker = style(method, list(groups))
        result = summary["methods"][method]["accuracy"]
        left.plot([100 * run.evaluation["accuracy"]["mean"] for run in own], [row] * len(own), marker, color=color, alpha=0.4, markersize=5)
        _interval(left, result["mean"], result["ci95"], row, color, marker)
    starts = [run.evaluation["accuracy_init"] for run in runs if is_number(run.evaluation["accuracy_init"])]
    if starts:
        left.axvline(100 * sum(starts) / len(starts), color="#999999", linewidth=1, linestyle=(0, (3, 2)))
        note = {"color": "#777777", "fontsize": 8.5, "va": "bottom"}
        left.annotate(
            "cold start",
            (100 * sum(starts) / len(starts), 1),
            (0, 1),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            **note,
        )
    left.set_yticks(range(len(groups)), [method.upper() for method in groups])
    left.set(ylim=(len(groups) - 0.5, -0.5), xlabel=f"test accuracy (%): seeds faint, mean with {percent} interval")
    right.axvline(0, color="#555555", linewidth=1)
    for row, comparison in enumerate(comparisons):
        color, marker = style(comparison["a"], list(groups))
        _interval(right, comparison["mean_diff"], comparison["ci95"], row, color, marker)
    right.set_yticks(range(len(comparisons)), [f"{row['a'].upper()} − {row['b'].upper()}" for row in comparisons])
    right.set(ylim=(max(len(comparisons), 1) - 0.5, -0.5), xlabel=f"paired difference over common seeds (points, {percent} interval)")
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return True


def _interval(axes: Axes, mean: float, bounds: list[float] | None, row: int, color: str, marker: str) -> None:
    if bounds:
        axes.plot([100 * bound for bound in bounds], [row, row], color=color, linewidth=2.2)
    axes.plot([100 * mean], [row], marker, color=color, markersize=8, markeredgecolor="white")


def _critic(figure: Figure, runs: list[Run], summary: dict[str, Any]) -> bool:
    """Up to six panels about the value model and the advantages; only those with data are drawn."""
    panels: list[tuple[str, str, list[tuple[str, Any, str]]]] = [
        (
            "Explained variance",
            "share of variance (axis cut at −1)",
            [("critic/ev_clean", "-", "clean"), ("critic/ev_observed", ":", "observed")],
        ),
        (
            "Advantage variance",
            "variance (before whitening)",
            [("advantage/variance", "-", "total"), ("advantage/noise_variance", ":", "noise part")],
        ),
        (
            "Semantic losses",
            "share of response tokens",
            [("critic/activated_entropy", "-", "entropy"), ("critic/activated_surprisal", ":", "perplexity")],
        ),
        ("Gain", "share left to the reward", [("critic/gain", "-", "")]),
        ("Active latent units", "number of units", [("critic/active_units", "-", "")]),
    ]
    groups = _by_method(runs)
    present = [panel for panel in panels if any(run.curve(key)[0] for run in runs for key, _, _ in panel[2])]
    checked = {method: own for method, own in groups.items() if any(_correlation(run, "start") is not None for run in own)}
    total = len(present) + bool(checked)
    if not any(run.evaluation["critic"] for run in runs) or not total:
        return False
    columns = min(3, total)
    rows = -(-total // columns)
    figure.set_size_inches(9.6, 2.9 * rows)
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells[total:]:
        axes.set_axis_off()
    for axes, (title, label, series) in zip(cells, present, strict=False):
        for method, own in groups.items():
            color, _ = style(method, list(groups))
            for key, dash, _ in series:
                curves = [curve for run in own if (curve := run.curve(key))[0]]
                if curves:
                    _lines(axes, curves, color, linestyle=dash, seeds=dash == "-")
        for _, dash, name in series:
            if name:
                axes.plot([], [], color="#555555", linestyle=dash, label=name)
        if len(series) > 1:
            axes.legend(fontsize=8.5)
        axes.set(title=title, ylabel=label)
        axes.set_xlabel("total rollouts (thousands)")
        axes.set_xlim(0, _end(runs))
        low, high = axes.get_ylim()
        share = title == "Semantic losses"
        axes.set_ylim((max(low, -1.0), min(high, 1.05)) if title == "Explained variance" else (min(low, 0), 1.0 if share else high))
    if checked:
        _correlation_bars(cells[len(present)], checked, list(groups))
    handles = [figure.axes[0].plot([], [], color=style(method, list(groups))[0], linewidth=2.5)[0] for method in groups]
    figure.legend(handles, [method.upper() for method in groups], loc="outside upper center", ncols=len(groups))
    return True


def _correlation(run: Run, when: str) -> float | None:
    value = (run.evaluation["critic"] or {}).get(f"corr_mc_{when}")
    return float(value) if is_number(value) else None


def _correlation_bars(axes: Axes, groups: dict[str, list[Run]], methods: list[str]) -> None:
    for place, (method, own) in enumerate(groups.items()):
        color, marker = style(method, methods)
        for offset, when, fill in ((-0.19, "start", f"{color}70"), (0.19, "end", color)):
            values = [value for run in own if (value := _correlation(run, when)) is not None]
            if values:
                height = sum(values) / len(values)
                axes.bar(place + offset, height, 0.34, color="white")  # hides the grid behind the pale bar
                axes.bar(place + offset, height, 0.34, color=fill)
                axes.plot([place + offset] * len(values), values, marker, color="white", markeredgecolor="#333333", markersize=4.5)
    axes.axhline(0, color="#555555", linewidth=1)
    axes.set_xticks(range(len(groups)), [f"{method.upper()}\nstart | end" for method in groups])
    axes.set(title="Values against Monte Carlo", ylabel="correlation, clean return")
    axes.grid(visible=False, axis="x")


def _accuracy_by_length(figure: Figure, runs: list[Run], summary: dict[str, Any]) -> bool:
    tables = {
        run.name: sorted((int(length), share) for length, share in (run.evaluation.get("accuracy_by_length") or {}).items()) for run in runs
    }
    lengths = sorted({length for table in tables.values() for length, _ in table})
    if not lengths:
        return False
    figure.set_size_inches(9.6, 3.4)
    axes = figure.subplots()
    groups = _by_method(runs)
    for method, own in groups.items():
        curves = [([float(x) for x, _ in table], [y for _, y in table]) for run in own if (table := tables[run.name])]
        if curves:
            color, marker = style(method, list(groups))
            _lines(axes, curves, color, (1, 100), marker=marker, markersize=5, label=method.upper())
    axes.set(xlabel="problem length (steps)", ylabel="test accuracy (%)", title="Test accuracy by problem length")
    axes.set_xticks(lengths)
    axes.legend()
    return True
