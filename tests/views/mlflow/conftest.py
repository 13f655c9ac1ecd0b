"""One migrated MLflow database, copied for each test: a migration takes seconds, a copy nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs_dir(migrated: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    return folder


@pytest.fixture
def as_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is written to by MLflow's own calls alone, as a server is."""
    monkeypatch.setattr("nasforge.views.mlflow.delivery.insert_runs", lambda client, experiment, runs: None)
