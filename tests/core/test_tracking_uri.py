"""Which places are taken for MLflow's runs, and what the others are answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError, TrackingError
from nasforge.core.tracking_uri import VARIABLE, chosen_uri, tracking_uri
from nasforge.core.uri import sqlite_file
from nasforge.settings.experiment import resolve


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_default_is_a_database_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert tracking_uri("sqlite:///mine.db", Path("runs")) == f"sqlite:///{tmp_path}/mine.db"


@pytest.mark.parametrize("name", ["r%20a", "50%", "a#b", "what?", "my runs", "läufe 日本", "a&b=c;d", "a%3Fb?c"])
def test_a_runs_folder_of_any_name_gives_the_uri_of_its_database(name: str, tmp_path: Path) -> None:
    uri = tracking_uri(None, tmp_path / name)
    assert sqlite_file(uri) == tmp_path / name / "mlflow.db"
    assert tracking_uri(uri, Path("elsewhere")) == uri


def test_a_relative_file_is_found_from_a_working_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "100% sure?"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert sqlite_file(tracking_uri("sqlite:///mine.db", Path("runs"))) == folder / "mine.db"
    assert sqlite_file(tracking_uri("sqlite:///a%20b/mine.db?timeout=60", Path("runs"))) == folder / "a b" / "mine.db"
    assert tracking_uri("sqlite:///mine.db?timeout=60", Path("runs")).endswith("/mine.db?timeout=60")
    monkeypatch.setenv("HOME", str(tmp_path / "h%me"))
    assert sqlite_file(tracking_uri("sqlite:///~/mine.db", Path("runs"))) == tmp_path / "h%me" / "mine.db"


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
        ("file:///tmp/my%20runs", "'sqlite:////tmp/my runs/mlflow.db'"),
        ("file:mlruns", "sqlite:///mlruns/mlflow.db"),
        ("./mlruns", "sqlite:///mlruns/mlflow.db"),
        ("/data/mlruns", "sqlite:////data/mlruns/mlflow.db"),
        ("htpp://localhost:5000", "does not know 'htpp:'"),
        ("http:/localhost", "names no host"),
        ("http://[broken", "names no host"),
        ("http://me:se#cret@host", "%23"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///what?/mine.db", "%3F"),
        ("sqlite:///file:mine.db?uri=true", "expected a path"),
        ("", "is a folder"),
    ],
)
def test_others_are_refused_with_advice(uri: str, advice: str) -> None:
    with pytest.raises(TrackingError) as caught:
        tracking_uri(uri, Path("runs"))
    assert advice in str(caught.value)
    assert "Allowed: http://HOST:PORT" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_the_variable_of_mlflow_is_obeyed_where_nothing_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert chosen_uri(None) is None
    monkeypatch.setenv(VARIABLE, "sqlite:///mine.db")
    assert chosen_uri(None) == f"sqlite:///{tmp_path}/mine.db"
    assert chosen_uri("http://host:5000") == "http://host:5000"
    assert chosen_uri("none") == "none"
    assert resolve({"space": "tiny", "data": "digits"}).tracking_uri == f"sqlite:///{tmp_path}/mine.db"
    assert resolve({"space": "tiny", "data": "digits", "tracking_uri": "none"}).tracking_uri == "none"
    monkeypatch.setenv(VARIABLE, "")
    assert chosen_uri(None) is None
    monkeypatch.setenv(VARIABLE, "./mlruns")
    with raises(ConfigError, "removed", "tracking_uri", VARIABLE, "'./mlruns'"):
        resolve({"space": "tiny", "data": "digits"})


def test_a_stored_uri_gets_its_password_from_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = "http://host:5000/mlflow"
    monkeypatch.setenv(VARIABLE, "http://me:secret@host:5000/mlflow")
    assert tracking_uri(stored, Path("runs")) == "http://me:secret@host:5000/mlflow"
    assert tracking_uri("http://other:5000", Path("runs")) == "http://other:5000"
    assert tracking_uri("http://you:word@host:5000/mlflow", Path("runs")) == "http://you:word@host:5000/mlflow"


def test_the_header_of_a_journal_has_no_password() -> None:
    config = resolve({"space": "tiny", "data": "digits", "tracking_uri": "http://me:secret@host"})
    assert config.tracking_uri == "http://me:secret@host"
    assert config.to_json()["tracking_uri"] == "http://host"
