"""Names and values that MLflow refuses, damaged ids, broken stores: MLflow gets what it can, and no search stops."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from made_journal import header, mixed, point, trial, write
from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
from test_mlflow import Driver, client_of, runs_of
from waiting import wait_until

from nasforge.api.search import tracking
from nasforge.api.track import track_files
from nasforge.core.architecture import Architecture
from nasforge.core.errors import StopNow, TimeOver, TrackingError
from nasforge.core.events import Asked, Event, Interrupted, Reported, Started, TestOpened, Told
from nasforge.core.tracking_uri import VARIABLE
from nasforge.core.trial import Charge, Measure, Result
from nasforge.experiment.state import load_state
from nasforge.views.mlflow import progress, tracker
from nasforge.views.mlflow.client import MlflowClient, MlflowException
from nasforge.views.mlflow.delivery import Delivery
from nasforge.views.mlflow.files import log_files
from nasforge.views.mlflow.position import read_ids
from nasforge.views.mlflow.runs import Runs, Writes, allowed_key, allowed_keys
from nasforge.views.mlflow.tracker import MlflowTracker, destination, track

LONG = "val/" + "x" * 300


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def reported(metrics: dict[str, float], number: int = 0) -> list[Event]:
    """A trial that reports these metrics once and finishes with them."""
    result = Result("finished", {"cost/flops": 1.0, **metrics}, (0.5, -1.0), 1, Charge(1.0, 1.0))
    return [
        Asked(number, Measure(point(number))),
        Started(number, 1),
        Reported(number, 1, 1, metrics, "continue"),
        Told(number, result),
    ]


@pytest.mark.parametrize(
    ("name", "mended"),
    [
        ("val/top-5/", "val/top-5"),
        ("/val/loss", "val/loss"),
        ("val//loss", "val/loss"),
        ("val/../loss", "val/loss"),
        ("./loss", "loss"),
        ("..loss", "_..loss"),
        ("loss (mean)", "loss _mean_"),
        ("läufe/größe", "läufe/größe"),
        ("a\nb\0c\ud800", "a_b_c_"),
        ("", "_"),
        ("///", "_"),
    ],
)
def test_a_name_that_mlflow_refuses_is_mended(name: str, mended: str) -> None:
    assert allowed_key(name) == mended


def test_two_names_never_become_one() -> None:
    names = allowed_keys(["top/", "top", "top//", LONG + "a", LONG + "b"])
    assert names["top"] == "top"
    assert len({*names.values()}) == 5
    assert all(len(name) <= 250 for name in names.values())


def test_bad_names_cost_nothing_but_their_spelling(runs_dir: Path) -> None:
    metrics = {"val/accuracy": 0.5, "val/top-5/": 1.0, LONG: 2.0, "a(b)": 3.0, "": 4.0}
    driver = Driver(runs_dir / "made")
    driver.write([header(), *reported(metrics)])
    driver.close()
    run = runs_of(runs_dir)[1]["0"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/accuracy"] == 0.5
    assert run.data.metrics["val/top-5"] == 1.0
    assert sorted(run.data.metrics.values()) == [0.5, 1.0, 1.0, 2.0, 3.0, 4.0]
    (message,) = driver.messages
    assert "does not take some names" in message
    assert "'val/top-5/' is 'val/top-5'" in message


def test_values_that_are_no_usual_numbers_keep_the_rest(runs_dir: Path) -> None:
    metrics = {"val/accuracy": 0.5, "a": math.nan, "b": math.inf, "c": -math.inf}
    folder = write(runs_dir / "made", [header(), *reported(metrics)])
    track(folder)
    run = runs_of(runs_dir)[1]["0"]
    assert run.info.status == "FINISHED"
    assert {*run.data.metrics} == {"cost/flops", "val/accuracy", "a", "b", "c"}
    assert math.isnan(run.data.metrics["a"])
    assert run.data.metrics["b"] > 1e300


def test_an_absurd_time_keeps_the_rest(runs_dir: Path) -> None:
    seconds = 1e300
    events = reported({"val/accuracy": 0.5, "time/worker_s": seconds})
    metrics = {"val/accuracy": 0.5, "cost/flops": 1.0}
    events[-1] = Told(0, Result("finished", metrics, (0.5, -1.0), 1, Charge(seconds, 1.0)))
    track(write(runs_dir / "made", [header(), *events]))
    run = runs_of(runs_dir)[1]["0"]
    assert (run.info.status, run.data.metrics["val/accuracy"]) == ("FINISHED", 0.5)


def test_steps_that_no_database_keeps_are_left_out() -> None:
    writes = Writes("trial 0", {})
    writes.measure({"a": 1.0}, 2**70, 0.0)
    writes.measure({"a": 2.0}, 1, 0.0)
    assert list(writes.metrics.values()) == [2.0]
    assert "no step" in writes.left_out[0]


def test_bad_parameters_and_texts_keep_the_rest(runs_dir: Path) -> None:
    values = {"model.a//b": "x" * 3000, "model.c(d)": "half \ud800 and \0", "model." + "y" * 300: 1, "model.ok": 2}
    folder = write(runs_dir / "made", [header(), Asked(0, Measure(Architecture(values)))])
    track(folder)
    run = runs_of(runs_dir)[1]["0"]
    assert len(run.data.params) == 4
    assert run.data.params["model.ok"] == "2"
    assert run.data.params["model.a/b"].startswith("xxx")


@pytest.mark.usefixtures("as_a_server")
def test_what_the_server_refuses_is_left_out_alone(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlflowClient.log_batch

    def picky(self: Any, run_id: str, **content: Any) -> Any:
        if any(metric.key == "val/loss" for metric in content["metrics"]):
            raise MlflowException("no losses here", error_code=1000)
        return real(self, run_id, **content)

    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    driver = Driver(runs_dir / "made")
    driver.write([header(), *trial(0)])
    driver.close()
    run = runs_of(runs_dir)[1]["0"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/accuracy"] == 0.8
    assert "val/loss" not in run.data.metrics
    assert "nasforge.arch_id" in run.data.tags
    (message,) = driver.messages
    assert "made #0: val/loss: " in message and "no losses here" in message


def test_a_store_of_artifacts_that_takes_nothing_keeps_the_rest(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *args: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(MlflowClient, "log_text", broken)
    architecture = Architecture({f"model.layer{index}.block": "x" * 400 for index in range(20)})
    folder = write(runs_dir / "made", [header(), Asked(0, Measure(architecture)), *trial(1)])
    with raises(TrackingError, "failed", None, "refused 1 write", "architecture.json", "read-only"):
        track(folder)
    assert track(folder) == 0
    assert runs_of(runs_dir)[1]["1"].info.status == "FINISHED"


def test_a_server_older_than_data_sets_gets_the_rest_and_one_note(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: Any, **options: Any) -> None:
        raise MlflowException("no such endpoint", error_code=ENDPOINT_NOT_FOUND)

    monkeypatch.setattr(MlflowClient, "log_inputs", missing)
    events = [*mixed(2), *(TestOpened(f"trial-1-seed-{seed}", {"test/accuracy": 0.9}) for seed in (0, 1))]
    notes: list[str] = []
    assert track(write(runs_dir / "made", events), say=notes.append) == len(events)
    (note,) = notes
    assert "takes no data sets" in note and "'made'" in note
    (parent,), children = runs_of(runs_dir)
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"} and len(children) == 4


# --- the file with the ids --------------------------------------------------------------------------------------------

DAMAGED = [
    '{"schema": 1, "sto',
    "",
    "[]",
    "null",
    '{"schema": 2, "stores": {}}',
    '{"schema": 1}',
    '{"schema": 1, "stores": []}',
    '{"schema": 1, "stores": {"default": 3}}',
    '{"schema": 1, "stores": {"default": {"delivered": "many"}}}',
    '{"schema": 1, "stores": {"default": {"delivered": -99921}}}',
    '{"schema": 1, "stores": {"default": {"ended_at": "late"}}}',
    '{"schema": 1, "stores": {"default": {"open": {"trial/0": 7}}}}',
    '{"schema": 1, "stores": {"default": {"key": null}}}',
    "[" * 100_000,
    b"\xff\xfe\x00".decode("latin-1"),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_ids_never_stop_a_search(content: str, runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(1))
    (folder / "tracking.json").write_text(content, encoding="latin-1")
    driver = Driver(folder)
    driver.write(trial(1))
    driver.close()
    assert any("tracking.json" in message and "Delete the file" in message for message in driver.messages)
    assert "command delivers them: nasforge track made --runs-dir" in driver.messages[-1]
    assert (folder / "tracking.json").read_text(encoding="latin-1") == content
    expected = ("unsupported", "schema") if '"schema": 2' in content else ("unreadable", None)
    with raises(TrackingError, *expected, "tracking.json"):
        track(folder)
    (folder / "tracking.json").unlink()
    assert track(folder) == len(mixed(1)) + len(trial(1))


def test_a_folder_in_the_place_of_the_ids_does_not_stop_a_search(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(1))
    (folder / "tracking.json").mkdir()
    driver = Driver(folder)
    driver.write(trial(1))
    driver.close()
    assert "tracking.json" in driver.messages[-1]


def test_more_events_delivered_than_there_are_means_another_search(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(2))
    track(folder)
    ids = json.loads((folder / "tracking.json").read_text())
    ids["stores"]["default"]["delivered"] = 100_000
    (folder / "tracking.json").write_text(json.dumps(ids))
    driver = Driver(folder)
    assert driver.tracker._delivery.left() == len(mixed(2))
    driver.write(trial(2))
    driver.close()
    assert ["made (2)" in message for message in driver.messages] == [True]
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiment = client.get_experiment_by_name("made (2)").experiment_id
    runs = client.search_runs([experiment], "tags.`nasforge.trial` = '2'")
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_a_new_search_in_the_place_of_an_old_one_gets_runs_of_its_own(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(3))
    track(folder)
    (folder / "journal.jsonl").unlink()
    write(folder, [header(seed=7), *trial(0), *trial(1), *trial(2), *trial(3)])
    assert track(folder) == len([header(), *trial(0), *trial(1), *trial(2), *trial(3)])
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiments = [client.get_experiment_by_name(name).experiment_id for name in ("made", "made (2)")]
    runs = client.search_runs(experiments, "tags.`nasforge.role` = 'search'")
    assert sorted(run.data.params["seed"] for run in runs) == ["0", "7"]


def test_ids_written_by_an_earlier_version_are_taken(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(2))
    track(folder)
    ids = json.loads((folder / "tracking.json").read_text())
    for key in ("ended", "ended_at", "journal", "latest_run_id"):
        del ids["stores"]["default"][key]
    (folder / "tracking.json").write_text(json.dumps(ids))
    assert track(folder) == 0
    assert len(runs_of(runs_dir)[0]) == 1


# --- stores that have lost runs ---------------------------------------------------------------------------------------


def with_store(runs_dir: Path, database: Path) -> Path:
    """Give a runs folder this database; it moves, since MLflow keeps connections to the one that it had."""
    moved = runs_dir.rename(runs_dir.with_name("later"))
    shutil.copy(database, moved / "mlflow.db")
    return moved


@pytest.mark.parametrize("is_id_taken", [False, True])
def test_a_store_that_is_lost_gets_everything_again(
    is_id_taken: bool, runs_dir: Path, migrated: Path, tmp_path: Path
) -> None:
    driver = Driver(runs_dir / "made")
    driver.write(mixed(2))
    driver.tracker.ended_by(RuntimeError("broken"))
    driver.close()
    page = tmp_path / "report.html"
    page.write_text("a page")
    assert log_files(runs_dir / "made", None, {page.name: page}) == 1
    later = with_store(runs_dir, migrated)
    if is_id_taken:
        track(write(later / "other", [header("other")]))
    notes: list[str] = []
    assert track(later / "made", say=notes.append) == len(mixed(2))
    assert track(later / "made", say=notes.append) == 0
    (note,) = notes
    assert "no longer has the runs of 'made'" in note
    parents, children = runs_of(later)
    assert {run.info.run_name: run.info.status for run in parents}["made"] == "FAILED"
    assert sorted(children) == ["0", "1"]
    assert log_files(later / "made", None, {page.name: page}) == 1


def test_a_store_of_an_older_copy_gets_what_it_lacks(runs_dir: Path, tmp_path: Path) -> None:
    folder = write(runs_dir / "made", mixed(2))
    track(folder)
    older = tmp_path / "older.db"
    shutil.copy(runs_dir / "mlflow.db", older)
    write(folder, [*trial(2), *trial(3, "running")])
    track(folder)
    later = with_store(runs_dir, older)
    notes: list[str] = []
    assert track(later / "made", say=notes.append) == len([*mixed(2), *trial(2), *trial(3, "running")])
    (note,) = notes
    assert "has lost runs of 'made'" in note
    assert track(later / "made") == 0
    (parent,), children = runs_of(later)
    assert {key: run.info.status for key, run in children.items()} == {
        **dict.fromkeys("012", "FINISHED"),
        "3": "KILLED",
    }
    assert parent.info.status == "KILLED"
    client = client_of(f"sqlite:///{later}/mlflow.db")
    assert [len(client.get_metric_history(children[key].info.run_id, "val/accuracy")) for key in "012"] == [3, 3, 3]


# --- stores that take nothing -----------------------------------------------------------------------------------------


class _Lying(BaseHTTPRequestHandler):
    status = 200
    content = b"<html>welcome</html>"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    do_GET = do_POST = do_PATCH = answer

    def log_message(self, *args: Any) -> None:
        pass


def _served(handler: type[_Lying]) -> HTTPServer:
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>welcome</html>"),
        (200, b"{}"),
        (200, b"null"),
        (200, b'{"experiment": {"experiment_id": "0"}, "runs": [{"info": {"run_id": "a"}}]}'),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}'),
        (401, b"who are you?"),
        (404, b"nothing here"),
        (500, b"server error"),
        (503, b""),
    ],
)
def test_a_server_that_lies_stops_nothing(status: int, content: bytes, tmp_path: Path) -> None:
    server = _served(type("Handler", (_Lying,), {"status": status, "content": content}))
    uri = f"http://me:s3cr3t@127.0.0.1:{server.server_port}"
    driver = Driver(tmp_path / "runs" / "made", uri=uri)
    events = mixed(3)
    driver.write(events)
    driver.close()
    server.shutdown()
    assert driver.tracker._delivery.left() == len(events)
    assert driver.messages
    assert "s3cr3t" not in "".join(driver.messages)
    for file in (tmp_path / "runs" / "made").iterdir():
        assert "s3cr3t" not in file.read_text()


def test_no_password_is_told_to_whoever_delivers(tmp_path: Path) -> None:
    server = _served(type("Handler", (_Lying,), {"status": 500, "content": b"no"}))
    folder = write(tmp_path / "made", mixed(1))
    with pytest.raises(TrackingError) as caught:
        track(folder, f"http://me:s3cr3t@127.0.0.1:{server.server_port}")
    server.shutdown()
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_command_that_delivers_the_rest_names_the_store_and_asks_for_the_password(tmp_path: Path) -> None:
    folder = tmp_path / "my runs" / "made"
    driver = Driver(folder, uri="http://me:s3cr3t@127.0.0.1:9")
    driver.write(mixed(1))
    driver.close()
    expected = f"nasforge track made --tracking-uri http://127.0.0.1:9 --runs-dir '{tmp_path}/my runs'"
    assert expected in driver.messages[-1]
    assert VARIABLE in driver.messages[-1]


@pytest.mark.parametrize("place", ["/proc/nothing/x.db", "{file}/x.db", "{folder}"])
def test_a_place_that_cannot_be_written_stops_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    uri = "sqlite:///" + place.format(file=tmp_path / "file", folder=tmp_path / "folder")
    driver = Driver(tmp_path / "made", uri=uri)
    driver.write(mixed(1))
    driver.close()
    assert f"{len(mixed(1))} events" in driver.messages[-1]


def test_a_locked_database_stops_nothing(runs_dir: Path) -> None:
    with sqlite3.connect(runs_dir / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        driver = Driver(runs_dir / "made", wait_s=1.0)
        driver.write(mixed(1))
        driver.close()
        assert f"{len(mixed(1))} events" in driver.messages[-1]


def test_a_database_of_a_newer_mlflow_stops_nothing(runs_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(runs_dir / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    driver = Driver(runs_dir / "made")
    driver.write(mixed(1))
    driver.close()
    assert f"{len(mixed(1))} events" in driver.messages[-1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["r%20a", "what?", "a#b & läufe"])
def test_a_runs_folder_of_any_name_keeps_runs_and_files(name: str, migrated: Path, tmp_path: Path) -> None:
    runs_dir = tmp_path / name
    architecture = Architecture({f"model.layer{index}.block": "x" * 400 for index in range(20)})
    folder = write(runs_dir / "made", [header(), Asked(0, Measure(architecture))])
    shutil.copy(migrated, runs_dir / "mlflow.db")
    track(folder)
    with sqlite3.connect(runs_dir / "mlflow.db") as database:
        (count,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
    assert count == 2
    assert len([*(runs_dir / "mlartifacts").rglob("architecture.json")]) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- how a search ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (TimeOver("as planned"), "FINISHED")],
)
def test_a_search_that_breaks_does_not_look_finished(error: BaseException, status: str, runs_dir: Path) -> None:
    driver = Driver(runs_dir / "made")
    driver.write(mixed(2))
    driver.tracker.ended_by(error)
    driver.close()
    assert runs_of(runs_dir)[0][0].info.status == status
    track(runs_dir / "made")
    assert runs_of(runs_dir)[0][0].info.status == status

    finalists = Driver(runs_dir / "made", of_search=False)
    finalists.write([TestOpened("one", {"test/accuracy": 0.9})])
    finalists.close()
    assert runs_of(runs_dir)[0][0].info.status == status

    again = Driver(runs_dir / "made")
    again.write(trial(3))
    again.close()
    assert runs_of(runs_dir)[0][0].info.status == "FINISHED"


@pytest.mark.parametrize("is_earlier_version", [False, True])
def test_a_search_that_was_continued_without_tracking_is_no_longer_killed(
    is_earlier_version: bool, runs_dir: Path
) -> None:
    folder, events = runs_dir / "made", trial(1)
    driver = Driver(folder)
    driver.write([header(), *trial(0), *events[:4], Interrupted(1, 1)])
    driver.tracker.ended_by(KeyboardInterrupt())
    driver.close()
    assert runs_of(runs_dir)[0][0].info.status == "KILLED"
    if is_earlier_version:
        ids = json.loads((folder / "tracking.json").read_text())
        del ids["stores"]["default"]["ended_at"]
        (folder / "tracking.json").write_text(json.dumps(ids))
    write(folder, [Started(1, 2), *events[4:]])
    track(folder)
    (parent,), children = runs_of(runs_dir)
    assert [run.info.status for run in (parent, children["0"], children["1"])] == ["FINISHED"] * 3


def test_runs_that_opened_since_the_last_stop_are_closed_too(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", [header(), *trial(0), *trial(1, "running")])
    track(folder)
    assert runs_of(runs_dir)[0][0].info.status == "KILLED"
    write(folder, trial(2, "running"))
    track(folder)
    (parent,), children = runs_of(runs_dir)
    assert [run.info.status for run in (parent, children["1"], children["2"])] == ["KILLED"] * 3


def test_runs_that_a_killed_process_left_open_are_closed(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", [header(), *trial(0), *trial(1, "running")])
    delivery = Delivery(folder, f"sqlite:///{runs_dir}/mlflow.db")
    delivery.deliver(live=True)
    delivery.release()
    assert runs_of(runs_dir)[1]["1"].info.status == "RUNNING"
    assert track(folder) == 0
    (parent,), children = runs_of(runs_dir)
    assert (parent.info.status, children["1"].info.status) == ("KILLED", "KILLED")


def test_an_open_run_that_the_user_deletes_does_not_stop_the_delivery(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", [header(), *trial(0), *trial(1, "running")])
    delivery = Delivery(folder, f"sqlite:///{runs_dir}/mlflow.db")
    delivery.deliver(live=True)
    client_of(f"sqlite:///{runs_dir}/mlflow.db").delete_run(runs_of(runs_dir)[1]["1"].info.run_id)
    delivery.finish()
    delivery.release()
    assert track(folder) == 0
    (parent,), children = runs_of(runs_dir)
    assert parent.info.status == "KILLED" and sorted(children) == ["0"]


def test_how_a_search_broke_is_delivered_later(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Connection refused")

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "search_runs", away)
        driver = Driver(runs_dir / "made")
        driver.write(mixed(2))
        driver.tracker.ended_by(RuntimeError("broken"))
        driver.close()
    track(runs_dir / "made")
    assert runs_of(runs_dir)[0][0].info.status == "FAILED"


def test_ctrl_c_leaves_the_rest_to_another_command(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(runs_dir / "made")
    driver.write(mixed(2))

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.tracker, "_wait", interrupted)
    driver.close()
    assert all("nasforge track made" in message for message in driver.messages)


@pytest.mark.usefixtures("as_a_server")
def test_ctrl_c_while_a_server_takes_its_time(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    """How the search ended is kept, and nothing is there twice when the rest follows."""
    real, written, go_on, waiting = Delivery._write, [], threading.Event(), threading.Event()

    def slow(self: Delivery, *args: Any) -> None:
        written.append(args)
        if len(written) > 6:
            if len(written) == 7:
                assert waiting.wait(60), "Ctrl-C at another place would end the tests"
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            go_on.wait(60)
        real(self, *args)

    monkeypatch.setattr(Delivery, "_write", slow)
    driver = Driver(runs_dir / "made")
    wait = driver.tracker._wait
    monkeypatch.setattr(driver.tracker, "_wait", lambda: (waiting.set(), wait()))
    events = [header(), *(event for number in range(20) for event in trial(number))]
    for event in events:
        driver.journal.append(event)
    driver.tracker.on_event(events[-1])
    driver.tracker.ended_by(KeyboardInterrupt())
    driver.close()
    (message,) = driver.messages
    assert f"{len(events)} events of 'made' are not delivered (stopped). Nothing is lost." in message
    assert read_ids(runs_dir / "made")["stores"]["default"]["ended"] == "KILLED"
    go_on.set()  # the process would end here
    monkeypatch.setattr(Delivery, "_write", real)
    assert driver.tracker._ended.wait(60)
    track(runs_dir / "made")
    parents, children = runs_of(runs_dir)
    assert [run.info.status for run in parents] == ["KILLED"] and len(children) == 20


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that takes every request and answers none, which requests wait for a long time."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    monkeypatch.setattr(tracker, "STOPPED_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # the system accepts connections, and nobody reads them
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


LONG_S = {"patience_s": 90.0, "wait_s": 90.0}


@pytest.mark.parametrize("of_search", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), StopNow("stopped on SIGTERM")])
def test_a_stop_does_not_wait_for_a_server_that_does_not_answer(
    error: KeyboardInterrupt, of_search: bool, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MlflowTracker.__init__.__kwdefaults__, "patience_s", LONG_S["patience_s"])
    monkeypatch.setitem(MlflowTracker.__init__.__kwdefaults__, "wait_s", LONG_S["wait_s"])
    folder, messages = write(tmp_path / "runs" / "made", mixed(2)), []
    start = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        tracking(folder, silent, (), messages.append, of_search=of_search) as (made,),
    ):
        made.on_event(mixed(2)[-1])
        raise error
    assert caught.value is error
    assert time.monotonic() - start < LONG_S["wait_s"] / 2
    (message,) = messages
    assert (
        f"{len(mixed(2))} events of 'made' are not delivered (it does not answer in time). Nothing is lost" in message
    )
    command = f"nasforge track made --tracking-uri {silent} --runs-dir {tmp_path}/runs"
    assert f"This command delivers them: {command}" in message


def test_a_planned_end_waits_for_mlflow(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "STOPPED_S", 0.0)
    driver = Driver(runs_dir / "made", **LONG_S)
    driver.write(mixed(2))
    driver.tracker.ended_by(TimeOver("as planned"))
    driver.close()
    assert driver.messages == [] and len(runs_of(runs_dir)[1]) == 2


def test_a_stop_waits_for_drawings_a_few_seconds(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "STOPPED_S", 0.3)
    folder = write(runs_dir / "made", mixed(2))
    track(folder)
    go_on, messages = threading.Event(), []

    def silent_store(self: Any, *args: Any) -> None:
        go_on.wait(90)

    monkeypatch.setattr(MlflowClient, "log_artifact", silent_store)
    start = time.monotonic()
    track_files(folder, None, load_state(folder), messages.append, stopped=True)
    go_on.set()
    assert time.monotonic() - start < 60
    (message,) = messages
    assert "takes no files (it does not answer in time). Deliver them later: nasforge track made" in message
    track_files(folder, None, load_state(folder), messages.append, stopped=True)
    assert len(messages) == 1


@pytest.mark.usefixtures("as_a_server")
def test_the_line_on_the_rest_never_repeats_its_number(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_FIRST_S", 0.2)
    monkeypatch.setattr(progress, "_PAUSE_S", 0.2)
    monkeypatch.setattr(tracker, "_MANY", 10)
    real, written = Delivery._write, []
    messages_before = {20: 1, 35: 2, 50: 3}

    def slow(self: Delivery, *args: Any) -> None:
        written.append(args)
        if len(written) in messages_before:
            wait_until(lambda: len(driver.messages) >= messages_before[len(written)], "a line on the rest")
        real(self, *args)

    monkeypatch.setattr(Delivery, "_write", slow)
    driver = Driver(runs_dir / "made")
    events = [header(), *(event for number in range(60) for event in trial(number))]
    for event in events:
        driver.journal.append(event)
    driver.tracker.on_event(events[-1])
    driver.close()
    number = rf"MLflow has (\d+) of {len(events)} events of 'made'(?:, \d+ s to go)?\. "
    lines = [re.fullmatch(rf"{number}Ctrl-C leaves them to: nasforge track made.*", text) for text in driver.messages]
    assert None not in lines
    numbers = [int(line[1]) for line in lines if line]
    assert len(numbers) > 2 and numbers == sorted(set(numbers))
    assert len(runs_of(runs_dir)[1]) == 60


# --- where to ---------------------------------------------------------------------------------------------------------


def test_where_an_experiment_is_delivered_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = write(tmp_path / "usual", [header()])
    far = write(tmp_path / "far", [header(tracking_uri="http://host:5000")])
    nowhere = write(tmp_path / "nowhere", [header(tracking_uri="none")])
    assert destination(usual) is None
    assert destination(far) == "http://host:5000"
    assert destination(far, "http://other") == "http://other"
    with raises(TrackingError, "missing", "tracking_uri"):
        destination(nowhere)
    monkeypatch.setenv(VARIABLE, "http://third:1")
    assert destination(usual) is None
    assert destination(far) == "http://host:5000"
    assert destination(nowhere) == "http://third:1"


def test_files_follow_the_umask(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(1))
    track(folder)
    modes = {stat.S_IMODE((folder / name).stat().st_mode) for name in ("tracking.json", "tracking.lock")}
    assert len(modes) == 1
    assert read_ids(folder)["schema"] == 1


def test_runs_say_which_names_changed() -> None:
    runs = Runs()
    writes = runs.fold([header(), *reported({"val/top-5/": 1.0})])
    assert writes["trial/0"].renamed == {"val/top-5/": "val/top-5"}


# --- servers that are slow, or refuse the user ------------------------------------------------------------------------


def test_each_answer_is_progress_before_the_first_run_is_written(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that checks a password on each request answers slowly, and waiting for it is worth while."""
    answers: list[int] = []

    def flush(self: Delivery) -> None:
        answers.append(self.progress)
        raise ConnectionError("enough")

    monkeypatch.setattr(Delivery, "_flush", flush)
    with raises(TrackingError, "failed", None, "enough"):
        track(write(runs_dir / "made", mixed(1)))
    assert answers == [3], "the experiment, the search for its run, the new run"


def refusing(status: int, body: str) -> Any:
    def refuse(self: Any, *args: Any, **content: Any) -> Any:
        raise MlflowException(
            f"API request to endpoint /api failed with error code {status} != 200. Response body: '{body}'"
        )

    return refuse


@pytest.mark.parametrize(
    ("status", "texts"),
    [
        (401, ("it refuses the user name or password", "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")),
        (403, ("it refuses this user the permission", "Ask the server's administrator")),
    ],
)
def test_a_server_that_refuses_the_user(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, status: int, texts: tuple[str, str]
) -> None:
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", refusing(status, "You are not authenticated."))
    driver = Driver(runs_dir / "made")
    driver.write(mixed(1))
    driver.close()
    assert len(driver.messages) == 2
    for message in driver.messages:
        assert all(text in message for text in texts) and "nasforge track made" in message
        assert "nothing is lost" in message.lower() and "not authenticated" not in message
    with raises(TrackingError, "failed", None, *texts, "then run the same command"):
        track(runs_dir / "made")
    monkeypatch.undo()
    assert track(runs_dir / "made") == len(mixed(1))
