"""One migrated MLflow database, copied for each test: a migration takes seconds, a copy nothing."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def deliveries_end() -> Iterator[None]:
    """A tracker that nobody waits for any more ends before the next test, which may count calls or output."""
    yield
    for thread in threading.enumerate():
        if thread.name == "nasforge-mlflow":
            thread.join(120)
            assert not thread.is_alive()


@pytest.fixture
def as_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is written to by MLflow's own calls alone, as a server is."""
    monkeypatch.setattr("nasforge.views.mlflow.delivery.insert_runs", lambda client, experiment, runs: None)
