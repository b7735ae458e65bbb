"""Draw the README's picture from data/reports/study/regulator.json: python -m docs.picture."""

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
    """The duel at flips of 0.4: left where the runs end, right how they learn."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = json.loads((REPORTS / "regulator.json").read_text(encoding="utf-8"))["tables"]["duel"]["rows"]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _duel(left, rows)
        _curves(right, rows)
        figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


def _duel(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = [row["axes"][-1] for row in rows]
    for place, row in enumerate(rows):
        found, (color, marker) = row["metrics"]["accuracy"], style(names[place].partition(",")[0], names)
        axes.plot([100 * seed for seed in row["seeds"]], [place] * found["n"], "|", color=color, alpha=0.5, markersize=9)
        axes.plot([100 * bound for bound in found["ci95"]], [place, place], color=color, linewidth=2)
        axes.plot(100 * found["mean"], place, marker, color=color, markersize=7, markeredgecolor="white")
    axes.set_yticks(range(len(names)), [name.upper().replace("ORACLE", "oracle critic") for name in names])
    axes.invert_yaxis()
    axes.set(title=f"40 % of all rewards flipped, {rows[0]['metrics']['accuracy']['n']} seeds", xlabel="final accuracy (%)")
    axes.grid(visible=False, axis="y")


def _curves(axes: Axes, rows: list[dict[str, Any]]) -> None:
    names = [row["axes"][-1] for row in rows]
    for name, row in zip(names, rows, strict=True):
        color, marker = style(name, names)
        x, y = ([scale * number for number in row["curve"][key]] for key, scale in (("rollouts", 1e-3), ("accuracy", 100)))
        axes.plot(x, y, color=color, marker=marker, markersize=4)
    axes.set(title="On the way, means", xlabel="rollouts (thousands), value warm-up included", ylabel="held-out accuracy (%)")


if __name__ == "__main__":
    draw()
