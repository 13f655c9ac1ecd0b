"""A store that only a journal names gets nothing, and no credentials, before the user has agreed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from expecting import raises

import nasforge
from nasforge.api.track import track
from nasforge.cli import app as cli
from nasforge.core import trust
from nasforge.core.errors import JournalError, TrackingError, TrustError
from nasforge.core.layout import JOURNAL
from nasforge.core.tracking_uri import VARIABLE, admit_store
from nasforge.runners import local
from nasforge.testing.toys import Planted, toy_config, toy_experiment
from nasforge.views.mlflow.position import destination, destination_of_comparison, new_ids, write_ids


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of the user's with one table."""
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table mine (x)")
    return path


@pytest.fixture
def theirs(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search whose journal names that database."""
    monkeypatch.setenv(trust.STATE_DIR, str(tmp_path / "state"))
    monkeypatch.delenv(VARIABLE, raising=False)
    config = toy_config(tmp_path / "runs", name="theirs", budget={"trials": 2}, tracking_uri=f"sqlite:///{database}")
    with toy_experiment(config, sync=False) as experiment:
        local.run(experiment, Planted())
    return config.folder


def tables(database: Path) -> list[str]:
    with sqlite3.connect(database) as connection:
        return [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]


def test_track_asks_for_the_store_by_name(theirs: Path, database: Path) -> None:
    with raises(TrustError, "untrusted", "tracking_uri", f"--tracking-uri sqlite:///{database}"):
        track(theirs)
    assert tables(database) == ["mine"]
    assert track(theirs, f"sqlite:///{database}")
    assert "runs" in tables(database)


def test_retrain_and_tune_ask(theirs: Path, database: Path) -> None:
    with raises(TrustError, "untrusted", "tracking_uri", "--trust"):
        nasforge.retrain(theirs)
    with raises(TrustError, "untrusted", "tracking_uri", "--trust"), trust.foreign(theirs.parent):
        admit_store(f"sqlite:///{database}", theirs.parent)
    with trust.foreign(theirs.parent, trust=True):
        admit_store(f"sqlite:///{database}", theirs.parent)
    assert destination(theirs) == f"sqlite:///{database}"
    assert tables(database) == ["mine"]


def test_a_search_and_the_environment_are_consent(
    theirs: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trust.view(), monkeypatch.context() as patch:
        patch.setenv(VARIABLE, f"sqlite:///{database}")
        assert destination(theirs) == f"sqlite:///{database}"
    with trust.view():
        with raises(TrustError, "untrusted", "tracking_uri"):
            destination(theirs)
        with trust.typed():
            admit_store(f"sqlite:///{database}", theirs.parent)
        assert destination(theirs) == f"sqlite:///{database}"


def test_the_store_of_a_comparison_is_asked_for(theirs: Path) -> None:
    write_ids(theirs, {"schema": 1, "stores": {"http://localhost:1": new_ids()}})
    with trust.view(), raises(TrustError, "untrusted", "tracking_uri", "http://localhost:1"):
        destination_of_comparison(theirs)


def test_no_tracking_is_said_in_words(theirs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with raises(TrackingError, "missing", "tracking_uri", "tracking is off"):
        destination(theirs, "none")
    assert cli.main(["mlflow", "--tracking-uri", "none"]) == 2
    assert "tracking is off" in capfd.readouterr().err


def test_a_journal_that_contradicts_itself_is_no_fault_of_the_store(theirs: Path, database: Path) -> None:
    journal = theirs / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines(keepends=True)[-1])
    with raises(JournalError, "unreadable", None, "journal.jsonl:"):
        track(theirs, f"sqlite:///{database}")
    assert tables(database) == ["mine"]
