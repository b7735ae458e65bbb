"""dvc.yaml against the code: each stage depends on the rooms that it imports, and on exactly the parameters that it names."""

import ast
from pathlib import Path

import pytest
import yaml

from pipeline import graph
from pipeline.params import Params

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
WITH_PARAMETERS = [stage for stage in STAGES if stage != "params"]
# Plumbing that cannot change what a stage writes: command line, records, MLflow, files; and parameters, whose values are compared.
PLUMBING = {"stages/stage.py", "stages/progress.py", "files.py", "params.py", "overlays.py", "graph.py", "own_code.py", "workspace.py"}
LIBRARY_PLUMBING = {"config.py", "errors.py", "files.py", "kinds.py", "timing.py", "moved.py"}


def imported_modules(path: Path) -> set[str]:
    """Project files that a module imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            candidate = ROOT / Path(*name.split(".")).with_suffix(".py")
            if name.split(".")[0] in ("vrpo", "pipeline") and candidate.is_file():
                found.add(candidate.relative_to(ROOT).as_posix())
    return found


def place(module: str) -> str | None:
    """What dvc.yaml calls a module: its room or itself; None for plumbing."""
    package, *inner = module.split("/")
    if package == "vrpo":
        return None if inner[0] in LIBRARY_PLUMBING else "/".join(module.split("/")[:2])
    if "/".join(inner) in PLUMBING or inner[0] == "tracking":
        return None
    return "pipeline/reporting" if inner[0] == "reporting" else module


def used(stage: str) -> set[str]:
    """The stage's module and every room or module it reaches, without plumbing and what only plumbing needs."""
    seen, queue = set(), [f"pipeline/stages/{stage}.py"]
    while queue:
        module = queue.pop()
        if module not in seen and place(module):
            seen.add(module)
            queue += imported_modules(ROOT / module)
    return {place(module) for module in seen}


@pytest.mark.parametrize("stage", WITH_PARAMETERS)
def test_dependencies_are_the_rooms_that_are_imported(stage: str) -> None:
    declared = {dep for dep in graph.stages()[stage].code if not dep.endswith("/templates")}
    assert declared == used(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_is_a_file_in_an_output(stage: str) -> None:
    """`dvc exp run` looks such a file up in the folder of the committed lock, and fails when a clone does not have that in its cache."""
    outputs = [next(iter(out)) if isinstance(out, dict) else out for entry in STAGES.values() for out in entry["outs"]]
    outputs += [out for entry in STAGES.values() for out in entry.get("metrics", ()) if isinstance(out, str)]
    for dep in STAGES[stage]["deps"]:
        ours = not dep.startswith("data/") or dep.startswith("data/own/")
        assert ours or any(f"{out}/".startswith(f"{dep}/") for out in outputs), dep


@pytest.mark.parametrize("stage", WITH_PARAMETERS)
def test_a_stage_reads_the_resolved_parameters_its_own_section_among_them(stage: str) -> None:
    assert "--params data/params.yaml" in STAGES[stage]["cmd"]
    sections = graph.stages()[stage].sections
    assert set(sections) <= set(Params.model_fields)
    assert stage in sections or stage not in Params.model_fields


def test_the_graph_a_person_reads_is_short() -> None:
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 20 * len(STAGES)


def test_upstream_stages_are_those_whose_outputs_are_read() -> None:
    upstream = {name: set(stage.upstream) for name, stage in graph.stages().items()}
    assert upstream["base"] == {"prepare", "validate"}
    assert upstream["train"] == {"prepare", "label", "sft", "reward"}
    assert upstream["evaluate"] == {"prepare", "label", "sft", "reward", "train"}
    assert upstream["report"] >= {"train", "evaluate", "sft", "label"}


def test_an_edit_in_a_room_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {stage: graph.code_digest(stage) for stage in ("sft", "reward")}
    room, files = (ROOT / "vrpo/rewards").as_posix(), graph._files
    monkeypatch.setattr(graph, "_files", lambda path: [*files(path), ROOT / "README.md"] if path.as_posix() == room else files(path))
    graph.code_digest.cache_clear()
    after = {stage: graph.code_digest(stage) for stage in ("sft", "reward")}
    graph.code_digest.cache_clear()
    assert after["sft"] == before["sft"] and after["reward"] != before["reward"]
