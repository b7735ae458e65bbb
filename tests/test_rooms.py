"""The house: imports run downward, no circle, no module too long to read in one go."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (  # from the ground up; rooms of one line do not know each other
    ("vrpo.moved", "vrpo.errors", "vrpo.seeding", "vrpo.timing"),
    ("vrpo.kinds",),
    ("vrpo.config", "vrpo.files", "vrpo.own_code"),
    ("vrpo.data",),
    ("vrpo.models", "vrpo.tasks"),
    ("vrpo.rollout", "vrpo.problems"),
    ("vrpo.rewards",),
    ("vrpo.critics",),
    ("vrpo.algorithms",),
    ("vrpo.metrics",),
    ("vrpo.training", "vrpo.benchmarks"),
    ("vrpo.adapters",),
    ("vrpo.console",),
    ("pipeline.arguments", "pipeline.environment", "pipeline.files", "pipeline.leash", "pipeline.workspace"),
    ("pipeline.own_code", "pipeline.overlays", "pipeline.graph"),
    ("pipeline.params",),
    ("pipeline.domains", "pipeline.preflight"),
    ("pipeline.tracking",),
    ("pipeline.reporting",),
    ("pipeline.stages",),
    ("pipeline.studies", "pipeline.study"),
    ("pipeline.orchestration",),
    ("pipeline.flow", "pipeline.repro"),
    ("pipeline.tools",),
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
LONGEST = 330  # lines


def modules() -> dict[str, Path]:
    files = [file for package in ("vrpo", "pipeline") for file in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of the project that a module imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            places = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {place if place in MODULES else node.module for place in places}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {place for place in found if place in MODULES and place != name}


def height(name: str) -> int:
    return HEIGHT[".".join(name.split(".")[:2])]


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_imports_run_downward(name: str) -> None:
    room = name.split(".")[:2]
    upward = [other for other in imports(name) if "." in other and other.split(".")[:2] != room and height(other) >= height(name)]
    assert not upward, f"{name} imports {', '.join(sorted(upward))}, which lie above it or beside it"


def test_there_is_no_circle() -> None:
    TopologicalSorter({name: imports(name) for name in MODULES}).prepare()


def test_modules_are_short() -> None:
    long = {name: lines for name, file in MODULES.items() if (lines := len(file.read_text().splitlines())) > LONGEST}
    assert not long
