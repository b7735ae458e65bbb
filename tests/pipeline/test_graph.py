"""dvc.yaml against the code: each stage depends on exactly the modules it imports, and tracks exactly its parameters."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# Plumbing that cannot change what a stage writes: command line, records, MLflow.
PLUMBING = {"pipeline/stages/stage.py", "pipeline/tracking/record.py", "pipeline/tracking/file.py", "pipeline/tracking/mirror.py"}


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


def closure(stage: str) -> set[str]:
    """The stage's script and every project module it reaches, without plumbing and what only plumbing needs."""
    seen, queue = set(), [f"pipeline/{stage}.py"]
    while queue:
        path = queue.pop()
        if path in seen:
            continue
        seen.add(path)
        if path == "vrpo/tasks/math/task.py":
            queue.append("vrpo/tasks/math/checker.py")  # started by path as a process of its own
        queue += [name for name in imported_modules(ROOT / path) if name not in PLUMBING]
    return seen | {"vrpo/config.py"}  # through stage.py, which reads the parameters


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_the_imports(stage: str) -> None:
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == closure(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_no_dependency_is_a_file_in_an_output(stage: str) -> None:
    """`dvc exp run` looks such a file up in the folder of the committed lock, and fails when a clone does not have that in its cache."""
    outputs = [next(iter(out)) if isinstance(out, dict) else out for entry in STAGES.values() for out in entry["outs"]]
    outputs += [out for entry in STAGES.values() for out in entry["metrics"] if isinstance(out, str)]
    for dep in STAGES[stage]["deps"]:
        assert not dep.startswith("data/") or any(f"{out}/".startswith(f"{dep}/") for out in outputs), dep


@pytest.mark.parametrize("stage", STAGES)
def test_own_section_is_tracked_with_domain_and_profile(stage: str) -> None:
    tracked = set(STAGES[stage]["params"])
    assert {"domain", "profile"} <= tracked
    if stage in PARAMS:
        assert {stage, f"domains.${{domain}}.{stage}", f"profiles.${{profile}}.{stage}"} <= tracked
    for key in tracked - {"domain", "profile"}:
        resolved = key.replace("${profile}", PARAMS["profile"]).replace("${domain}", PARAMS["domain"])
        node = PARAMS
        for part in resolved.split("."):
            assert part in node, f"{stage} tracks {resolved}, which params.yaml lacks"
            node = node[part]


@pytest.mark.parametrize("overlays", ["domains", "profiles"])
def test_every_overlay_lists_every_tracked_section(overlays: str) -> None:
    sections = {key.rsplit(".", 1)[1] for stage in STAGES.values() for key in stage["params"] if key.startswith(overlays)}
    for name, values in PARAMS[overlays].items():
        assert set(values) == sections, f"{overlays}.{name}: DVC needs every tracked section, empty ones as {{}}"
