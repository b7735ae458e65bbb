"""Where stages read and write: a folder, and in it one place for the outputs of each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """`root`, and the places below its data/ as dvc.yaml names them; one that is given instead lies where it is said to."""

    root: Path = Path()
    params: Path = Path("data/params.yaml")
    own: Path = Path("data/own")  # what DVC watches of a user's own code
    prepared: Path = Path("data/prepared")
    validation: Path = Path("data/validation")
    base: Path = Path("data/models/base")
    labels: Path = Path("data/labels")
    sft: Path = Path("data/models/sft")
    cold_start: Path = Path("data/evaluations/sft.json")  # where every trained policy started from
    reward: Path = Path("data/models/reward")
    runs: Path = Path("data/runs")
    state: Path = Path("data/state")  # of runs that go on
    evaluations: Path = Path("data/evaluations")
    tokens: Path = Path("data/tokens")
    metrics: Path = Path("data/metrics")
    costs: Path = Path("data/costs")  # seconds and memory, which DVC does not see
    reports: Path = Path("data/reports")

    def __post_init__(self) -> None:
        for place in fields(self):
            if getattr(self, place.name) is place.default:  # not given
                object.__setattr__(self, place.name, self.root / place.default)


HERE = Workspace()  # the current folder
