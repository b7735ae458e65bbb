"""docs/extend.md put into a copy of the project, as it says, and what is asked of that copy."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.extend.page import RECIPES, ROOT


@dataclass(frozen=True)
class Copy:
    """A copy of the project."""

    folder: Path

    def run(self, *command: str, stdin: str = "") -> str:
        """What a program of Python prints in it."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "PYTHONPATH": f"{self.folder}:{ROOT / 'tests/vrpo'}", "MLFLOW_TRACKING_URI": "off", "DVC_NO_ANALYTICS": "1"}
        options = {"env": os.environ | own, "input": stdin, "capture_output": True, "text": True, "timeout": 600}
        done = subprocess.run([sys.executable, *command], cwd=self.folder, **options)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        return done.stdout


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """All recipes in one copy; beside it nothing was edited."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("vrpo", "pipeline", "docs", ".dvc", "data/own"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local"))
    for name in ("dvc.yaml", "params.yaml", "tests/pipeline/test_graph.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    for recipe in RECIPES.values():
        for name, code in recipe.files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{path.read_text().rstrip()}\n\n{code}" if path.exists() else code)
            if path.suffix == ".patch":
                subprocess.run(["git", "apply", name], cwd=folder, check=True)
    return Copy(folder)


@pytest.fixture(scope="session")
def found(copy: Copy) -> dict:
    """What trains.py finds in the copy: one process for all recipes that train, since to import torch and TRL takes longer than they do."""
    (copy.folder / "trains.py").write_text((ROOT / "tests/extend/trains.py").read_text())
    chosen = {name: recipe.chosen for name, recipe in RECIPES.items()}
    code = RECIPES["domain"].files["vrpo/tasks/sort/__init__.py"]
    copy.run("trains.py", stdin=json.dumps({"chosen": chosen, "domain": code}))
    return json.loads((copy.folder / "found.json").read_text())
