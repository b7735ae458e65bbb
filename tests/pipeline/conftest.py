"""A project folder of its own with an empty MLflow database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.tracking import mirror

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, copying it nothing."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mirror.init_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Path) -> Path:
    """A project folder of its own, with an empty database."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    shutil.copy(database, "mlflow.db")
    return tmp_path


@pytest.fixture
def no_mirror(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
