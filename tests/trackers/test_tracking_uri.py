"""Which places are taken for MLflow's runs, and what the others are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasforge.core.errors import TrackingError
from nasforge.trackers.tracking_uri import sqlite_file, tracking_uri, ui_command, without_password


def test_the_default_is_a_database_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:///mine.db", Path("runs")) == f"sqlite:///{tmp_path}/mine.db"
    assert sqlite_file(f"sqlite:///{tmp_path}/mine.db") == tmp_path / "mine.db"


@pytest.mark.parametrize(
    "uri", ["http://localhost:5000", "https://me:secret@host/path", "postgresql+psycopg2://u:p@h/db", "databricks"]
)
def test_servers_are_taken_as_they_are(uri: str) -> None:
    assert tracking_uri(uri, Path("runs")) == uri
    assert sqlite_file(uri) is None


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("file:///tmp/mlruns", "sqlite:////tmp/mlruns/mlflow.db"),
        ("file:mlruns", "sqlite:///mlruns/mlflow.db"),
        ("./mlruns", "sqlite:///mlruns/mlflow.db"),
        ("/data/mlruns", "sqlite:////data/mlruns/mlflow.db"),
        ("htpp://localhost:5000", "does not know 'htpp:'"),
        ("http:/localhost", "names no host"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("", "is a folder"),
    ],
)
def test_others_are_refused_with_advice(uri: str, advice: str) -> None:
    with pytest.raises(TrackingError) as caught:
        tracking_uri(uri, Path("runs"))
    assert advice in str(caught.value)
    assert "Allowed: http://HOST:PORT" in str(caught.value)


def test_passwords_are_neither_shown_nor_stored() -> None:
    assert without_password("https://me:secret@host:5000/x?token=1") == "https://host:5000/x"
    assert without_password("postgresql://me:secret@host/db") == "postgresql://host/db"


def test_the_ui_line() -> None:
    assert ui_command("http://me:secret@host:5000", Path("runs")) == "http://host:5000"
    line = ui_command(None, Path("/data/my runs"))
    assert line.endswith("ui --backend-store-uri 'sqlite:////data/my runs/mlflow.db' --workers 1")
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in line
