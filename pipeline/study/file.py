"""A study's file: its tables, axes and seeds, read and checked, and the cells that they make.

description: what it asks
domain: math              # optional, in place of params.yaml's
cold_start: 0.35          # optional: seeds whose cold start is less accurate are left out
params: {...}             # laid over params.yaml for every cell
tables:
  duel:
    title: VRPO against PPO
    seeds: [0, 1, 2]
    params: {...}         # optional, for this table
    axes:                 # every combination of their values is a cell for each seed; a value is parameters, `method` among them
      method: {ppo: {method: ppo}, vrpo: {method: vrpo}}
    pairs: [[vrpo, ppo]]  # optional: values of the last axis to compare
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from pipeline import own_code
from pipeline.graph import digest
from pipeline.overlays import overlay, read_yaml
from pipeline.params import Domain, Params, load_params, resolve_params
from vrpo.config import MEMORY_SETTINGS, Probability, Section, Seeds
from vrpo.errors import UserError

UNDECIDED = {"profile", "methods", "seeds", "report"}  # parameters that do not touch a cell's result
SEEDED = ("base", "label", "sft", "reward")  # sections that get the cell's seed: each seed has its own models and its own noise

# What a table may show: heading, decimals and scale of each metric.
METRICS: dict[str, tuple[str, int, float]] = {
    "accuracy": ("final accuracy (%)", 1, 100),
    "held_out": ("final held-out accuracy (%)", 1, 100),
    "best": ("best held-out accuracy (%)", 1, 100),
    "peak": ("iteration of the best", 0, 1),
    "area": ("area under the learning curve (%)", 1, 100),
    "collapsed": ("collapsed (%)", 0, 100),
    "last_batches": ("clean reward of the last five batches (%)", 1, 100),
    "drop": ("below its best five batches (points)", 1, 100),
    "gain": ("gain, mean over training", 2, 1),
    "evidence": ("evidence of skill, start (standard errors)", 1, 1),
    "length_inflation": ("length inflation (x)", 2, 1),
    "proxy_gap": ("proxy gap (points)", 1, 100),
    "noise_share": ("noise in advantage variance (%)", 0, 100),
    "noise_variance": ("noise variance of advantages", 4, 1),
    "ev_observed": ("explained variance, observed", 2, 1),
    "ev_clean": ("explained variance, clean", 2, 1),
    "corr_mc_start": ("corr. with Monte-Carlo, start", 2, 1),
    "corr_mc_end": ("corr. with Monte-Carlo, end", 2, 1),
    "mse_mc": ("squared error against Monte-Carlo", 3, 1),
    "slope_mc": ("slope against Monte-Carlo", 3, 1),
    "gradient_cosine": ("cosine of the policy's gradient with the clean exact one", 2, 1),
    "active_units": ("active latent units", 1, 1),
    "critic_seconds": ("seconds of the critic", 1, 1),
    "seconds": ("seconds", 0, 1),
    "rollouts": ("rollouts", 0, 1),
}
RUN = ("accuracy", "best", "area", "collapsed", "length_inflation", "proxy_gap", "corr_mc_start", "corr_mc_end", "ev_clean")
CRITIC = ("corr_mc_start", "slope_mc", "mse_mc", "seconds")


class Table(Section):
    """One grid of a study: axes x seeds."""

    model_config = ConfigDict(strict=False)  # YAML has lists for tuples
    title: str = ""
    kind: Literal["run", "critic"] = "run"
    seeds: Seeds
    cold_start: Probability | None = None  # in place of the study's
    params: dict[str, Any] = Field(default_factory=dict)
    axes: Annotated[dict[str, dict[str, dict[str, Any]]], Field(min_length=1)]
    metrics: tuple[str, ...] = ()  # the first one is drawn
    compared: tuple[str, ...] = ()  # by default the first of the metrics
    pairs: tuple[tuple[str, str], ...] = ()  # of the last axis: differences of the first and the second
    reference: tuple[str, str] | None = None  # of the last axis: floor and ceiling of the headroom

    @property
    def shown(self) -> tuple[str, ...]:
        """Metrics of its columns."""
        return self.metrics or (CRITIC if self.kind == "critic" else RUN)

    @model_validator(mode="after")
    def _names_exist(self) -> Table:
        axis, values = list(self.axes.items())[-1]
        asked = [(key, name, METRICS) for key in ("metrics", "compared") for name in getattr(self, key)]
        asked += [("pairs", name, values) for pair in self.pairs for name in pair]
        asked += [("reference", name, values) for name in self.reference or ()]
        for key, name, known in asked:
            if name not in known:
                what = "metric" if key == "metrics" else f"value of {axis}, the last axis"
                raise ValueError(f"{key}: unknown {what}, {name!r}; use {', '.join(known)}")
        return self


class Study(Section):
    """A study's file."""

    description: str = ""
    domain: Domain | None = None
    cold_start: Probability = 0.0
    params: dict[str, Any] = Field(default_factory=dict)
    tables: Annotated[dict[str, Table], Field(min_length=1)]

    def cold_start_of(self, table: str) -> float:
        """The table's own, or the study's."""
        own = self.tables[table].cold_start
        return self.cold_start if own is None else own


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        study: its file's name.
        table: name of the table that asked for it.
        axes: the value's name on each axis, method and noise among them.
        method, seed: as in params.yaml.
        params: everything else.
        kind: "run", trained and evaluated; "critic", only the value warm-up, its Monte-Carlo check and the first gradient's.
        cold_start: accuracy that the cold start must have; a seed whose base model learned less says nothing about RL and is left out.
    """

    study: str
    table: str
    axes: dict[str, str]
    method: str
    seed: int
    params: Params
    kind: str
    cold_start: float

    @property
    def key(self) -> str:
        """Names the result after everything that decides it."""
        return cell_key(self.kind, self.method, self.seed, self.params, own_code.digest(self.params))

    @property
    def name(self) -> str:
        """For people: the values on its axes and the seed."""
        return f"{', '.join(self.axes.values())}, seed {self.seed}"


def load_study(path: Path) -> tuple[Study, list[Cell]]:
    """Read a study and expand its tables.

    Raises:
        UserError: a key is unknown or missing, a value is wrong, or a cell's parameters are impossible; the place is named.
    """
    try:
        study = Study.model_validate(read_yaml(path))
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, issue['loc'])) or 'the file'}: {issue['msg']}" for issue in error.errors()]
        raise UserError("\n".join(lines)) from None
    return study, [cell for name in study.tables for cell in _expand(study, name, path)]


def _expand(study: Study, name: str, path: Path) -> Iterator[Cell]:
    table = study.tables[name]
    common = load_params(domain=study.domain).model_dump(exclude={"profile", "methods", "seeds"})
    common = overlay(overlay(common, study.params), table.params)
    for seed, *values in itertools.product(table.seeds, *table.axes.values()):
        chosen = dict(zip(table.axes, values, strict=True))
        raw, method = common, "ppo"
        for axis, value in chosen.items():
            changes = dict(table.axes[axis][value])
            method = changes.pop("method", method)
            raw = overlay(raw, changes)
        for section in SEEDED:
            raw = overlay(raw, {section: {"seed": seed}})
        where = ", ".join(f"{axis} {value}" for axis, value in chosen.items())
        params = resolve_params(raw | {"methods": [method], "seeds": [seed]}, f"{path}: tables.{name}: {where}")
        yield Cell(path.stem, name, chosen, method, seed, params, table.kind, study.cold_start_of(name))


def cell_key(kind: str, method: str, seed: int, params: Params, own: str) -> str:
    """Digest of everything that decides a cell's result; `own` is that of the own code it names, "" where there is none."""
    parts = [kind, method, seed, params.model_dump(exclude=dict.fromkeys(UNDECIDED, True) | MEMORY_SETTINGS)]
    return digest([*parts, own] if own else parts)
