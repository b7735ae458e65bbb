"""A copy of the project in a folder of its own, on the miniature profile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


class Project:
    """Runs commands in a copy of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "PYTHONPATH": ""}
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        settings = {"env": self.environment | environment, "capture_output": True, "text": True, "timeout": 3000}
        done = subprocess.run(command, cwd=self.folder, **settings)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def dvc(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check, **environment)

    def change_params(self, **sections) -> None:
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            params[section] = {**params[section], **values} if isinstance(values, dict) else values
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def stale(self) -> set[str]:
        """Stages that `dvc repro` would run once it knows the parameters."""
        self.dvc("repro", "-q", "--single-item", "params")
        lines = self.dvc("status").stdout.splitlines()
        return {line.rstrip(":") for line in lines if line and not line[0].isspace() and line.endswith(":")}


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("project")
    for name in ("vrpo", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    copy = Project(folder)
    shutil.copytree(ROOT / "data/own", folder / "data/own")
    copy.run("git", "init", "-q")
    copy.dvc("init", "-q")
    copy.change_params(profile="mini", methods=["grpo", "vrpo"], seeds=[0])
    return copy
