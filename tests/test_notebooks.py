"""Notebooks are committed without outputs: they would be stale, and large. The first one runs here, the others on a finished run (end_to_end/)."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = """pretraining_steps, hidden_size = 120, 32
iterations, rollouts, warmup_rollouts = 2, 96, 32
methods, problems_held_out = ("ppo", "grpo", "regulated"), 16"""


def test_there_are_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells), "strip them: jupyter nbconvert --clear-output --inplace"
    assert {cell["execution_count"] for cell in cells} == {None}


def assigned(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_the_start_goes_from_a_noisy_reward_to_methods_and_their_price(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With smaller numbers in place of those of its first cell."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    content = nbformat.read(NOTEBOOKS[0], as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert len(code) == 5 and code[0].metadata.tags == ["parameters"] and assigned(SMALL) <= assigned(code[0].source)
    code[0].source += "\n" + SMALL
    NotebookClient(content, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [[kind for output in cell.outputs for kind in output.get("data", {})] for cell in code]
    assert "image/png" in shown[2] and {"image/png", "text/html"} <= {*shown[4]}
    audited = "".join(output.text for output in code[2].outputs if output.output_type == "stream")
    assert "J, what is left of right - wrong" in audited and "scored 2 times" in audited
    trained = "".join(output.text for output in code[3].outputs if output.output_type == "stream")
    assert all(f"{method:10} {name}" in trained for method in ("ppo", "grpo", "regulated") for name in ("clean", "noisy"))
