"""Draw the README's picture from data/reports/study/noise.json: python -m docs.picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reporting.figures import RC, style
from pipeline.study.report import REPORTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = Path(__file__).with_suffix(".png")


def draw() -> None:
    """Left, the duel at flips of 0.35; right, what the bottleneck's weight costs."""
    import matplotlib
    from matplotlib.figure import Figure

    tables = json.loads((REPORTS / "noise.json").read_text(encoding="utf-8"))["tables"]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _duel(left, tables["duel"]["rows"])
        _beta(right, tables["beta"]["rows"])
        figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


def _duel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = [row["axes"][-1] for row in rows]
    for place, row in enumerate(rows):
        found, (color, marker) = row["metrics"]["accuracy"], style(names[place].partition(",")[0], names)
        axes.plot([100 * seed for seed in row["seeds"]], [place] * found["n"], "|", color=color, alpha=0.5, markersize=9)
        axes.plot([100 * bound for bound in found["ci95"]], [place, place], color=color, linewidth=2)
        axes.plot(100 * found["mean"], place, marker, color=color, markersize=7, markeredgecolor="white")
    axes.set_yticks(
        range(len(names)), [name.upper().replace(", REPAIRED", ", repaired").replace("ORACLE", "oracle critic") for name in names]
    )
    axes.invert_yaxis()
    axes.set(title=f"35 % of all rewards flipped, {rows[0]['metrics']['accuracy']['n']} seeds", xlabel="final accuracy (%)")
    axes.grid(visible=False, axis="y")


def _beta(axes: Axes, rows: list[dict[str, Any]]) -> None:
    betas = list(dict.fromkeys(row["axes"][1] for row in rows))
    for noise, line in zip(dict.fromkeys(row["axes"][0] for row in rows), ("--", "-"), strict=True):
        found = [row["metrics"]["accuracy"] for row in rows if row["axes"][0] == noise]
        bars = [[100 * abs(entry["mean"] - entry["ci95"][side]) for entry in found] for side in (0, 1)]
        label = f"{100 * float(noise.split()[1]):.0f} % flipped"
        axes.errorbar(
            betas, [100 * entry["mean"] for entry in found], bars, color=style("vrpo", [])[0], linestyle=line, marker="o", label=label
        )
    axes.set_xticks(range(len(betas)), [beta.removeprefix("beta ") for beta in betas])
    axes.set(title="The bottleneck's price, five seeds", xlabel="beta, weight of VRPO's KL term", ylabel="final accuracy (%)")
    axes.legend()


if __name__ == "__main__":
    draw()
