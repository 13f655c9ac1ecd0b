"""Trials that are inserted at once are the same runs as those that MLflow's own calls write."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from expecting import raises
from made_journal import header, mixed, trial, write
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from test_mlflow import Driver, client_of, runs_of

from nasforge.core.errors import TrackingError
from nasforge.core.events import Reported
from nasforge.views.mlflow import delivery
from nasforge.views.mlflow.client import MlflowException, NewRun, TablesRefused, insert_runs
from nasforge.views.mlflow.tracker import track


def facts_of(runs_dir: Path, uri: str = "") -> dict[str, Any]:
    """All that MLflow has of a search, without ids and moments."""
    client = client_of(uri or f"sqlite:///{runs_dir}/mlflow.db")
    parents, children = runs_of(runs_dir, uri)
    facts = {}
    for run in (*parents, *children.values()):
        info, data = run.info, run.data
        moments = (info.end_time - info.start_time, info.status, info.lifecycle_stage, info.user_id)
        histories = {
            key: [(m.step, m.value, m.timestamp - info.start_time) for m in client.get_metric_history(info.run_id, key)]
            for key in data.metrics
        }
        tags = {key: value for key, value in data.tags.items() if key != "nasforge.key"}
        place = info.artifact_uri.replace(info.run_id, "RUN").replace(str(runs_dir), "")
        length = moments if data.tags["nasforge.role"] == "trial" else moments[1:]
        contents = [sorted(one.items()) for one in (data.params, tags, data.metrics, histories)]
        facts[info.run_name] = (length, contents, place)
    return facts


def test_the_runs_are_those_of_mlflows_own_calls(
    runs_dir: Path, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserted: list[int] = []

    def insert(client: Any, experiment: str, runs: list[NewRun]) -> list[str] | None:
        inserted.append(len(runs))
        return insert_runs(client, experiment, runs)

    other = tmp_path / "other"
    other.mkdir()
    (other / "mlflow.db").write_bytes(migrated.read_bytes())
    *before, told = trial(8)
    events = [*mixed(8), *before, Reported(8, 1, 4, {"a": math.nan, "val/loss": math.inf}, "continue"), told]
    monkeypatch.setattr(delivery, "insert_runs", insert)
    notes: list[str] = []
    track(write(runs_dir / "made", events), say=notes.append)
    assert notes == [], "the installed MLflow has tables of a revision that insert_runs does not know"
    monkeypatch.setattr(delivery, "insert_runs", lambda client, experiment, runs: None)
    track(write(other / "made", events))
    assert inserted == [8], "the ninth has a metric that is no number"
    ours, mlflows = facts_of(runs_dir), facts_of(other)
    assert ours.keys() == mlflows.keys()
    for name, facts in ours.items():
        assert repr(facts) == repr(mlflows[name]), name


def test_what_a_table_refuses_is_left_to_mlflows_own_calls(runs_dir: Path) -> None:
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiment = client.create_experiment("any")
    runs = [NewRun("a", status, 1, 2, {}, {}, {}) for status in ("FINISHED", "NO STATUS")]
    with pytest.raises(TablesRefused, match="status"):
        insert_runs(client, experiment, runs)
    assert client.search_runs([experiment]) == []


def test_a_slow_delivery_says_why(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(client: Any, experiment: str, runs: list[NewRun]) -> list[str]:
        raise TablesRefused("no such column: runs.name")

    monkeypatch.setattr(delivery, "insert_runs", refuse)
    notes: list[str] = []
    track(write(runs_dir / "made", mixed()), say=notes.append)
    slow = [note for note in notes if "no such column: runs.name" in note]
    assert len(slow) == 1 and "one by one" in slow[0]
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'made'")
    assert len(client.search_runs([experiment.experiment_id])) == 9


def at_revision(runs_dir: Path, revision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tables another revision, as a newer MLflow does, and let the installed one take them for its own."""
    with sqlite3.connect(runs_dir / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    database.close()
    for module in ("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store"):
        monkeypatch.setattr(f"{module}._verify_schema", lambda engine: None, raising=False)


def test_tables_of_an_unknown_revision_get_mlflows_own_calls(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_revision(runs_dir, "abc123", monkeypatch)
    driver = Driver(runs_dir / "made")
    driver.write([header(), *trial(0), *trial(1)])
    driver.close()
    (note,) = driver.messages
    assert "abc123" in note and "3.17" in note and "one by one" in note
    assert sorted(runs_of(runs_dir)[1]) == ["0", "1"]


def test_a_database_that_is_away_gets_no_run_twice(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction is carried out, then the connection breaks."""

    def breaks(client: Any, experiment: str, runs: list[NewRun]) -> list[str] | None:
        insert_runs(client, experiment, runs)
        raise MlflowException("the server closed the connection", error_code=TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(delivery, "insert_runs", breaks)
    folder = write(runs_dir / "made", mixed())
    with raises(TrackingError, "failed", None, "closed the connection", "same command"):
        track(folder)
    notes: list[str] = []
    track(folder, say=notes.append)
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'made'")
    names = [run.info.run_name for run in client.search_runs([experiment.experiment_id])]
    assert sorted(names) == ["made", *(f"made #{number}" for number in range(8))]
    assert notes == []


def test_a_locked_database_is_no_matter_of_its_tables(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiment = client.create_experiment("any")
    store = client._tracking_client.store
    real = store.ManagedSessionMaker

    @contextmanager
    def impatient(read_only: bool = True) -> Iterator[Any]:
        with real(read_only=read_only) as session:
            session.execute(sqlalchemy.text("PRAGMA busy_timeout = 1"))
            yield session

    monkeypatch.setattr(store, "ManagedSessionMaker", impatient)
    with closing(sqlite3.connect(runs_dir / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MlflowException, match="locked"):
            insert_runs(client, experiment, [NewRun("a", "FINISHED", 1, 2, {}, {}, {})])


def test_trials_that_are_inserted_at_once_start_one_after_the_other(runs_dir: Path) -> None:
    track(write(runs_dir / "made", mixed()))
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'made'")
    trials = client.search_runs(
        [experiment.experiment_id], "tags.`nasforge.role` = 'trial'", order_by=["attributes.start_time ASC"]
    )
    assert [run.data.tags["nasforge.trial"] for run in trials] == [str(number) for number in range(8)]
    assert len({run.info.start_time for run in trials}) == 8


def test_later_events_of_an_inserted_trial_find_it(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", [header(), *trial(0), *trial(2)])
    track(folder)
    assert runs_of(runs_dir)[1]["2"].data.tags["nasforge.pareto"] == "true"
    write(folder, trial(5))
    track(folder)
    _, children = runs_of(runs_dir)
    assert sorted(children) == ["0", "2", "5"]
    pareto = {number: run.data.tags["nasforge.pareto"] for number, run in children.items()}
    assert pareto == {"0": "true", "2": "false", "5": "true"}


@pytest.mark.slow
def test_two_thousand_trials_take_less_than_a_minute_and_20_ms_of_cpu_each(runs_dir: Path) -> None:
    count = 2000
    events = [header(budget={"trials": count})]
    for number in range(count):
        events += trial(number)
    folder = write(runs_dir / "made", events)
    began, used = time.monotonic(), time.process_time()
    track(folder)
    assert time.monotonic() - began < 60
    assert time.process_time() - used < 0.02 * count
