"""The MLflow view against a real SQLite store, and against servers that are dead, slow, or killed in between."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from made_journal import header, mixed, point, trial, write
from ports import free_port
from waiting import wait_until

from nasforge.core.architecture import Architecture
from nasforge.core.errors import NasforgeError, TrackingError
from nasforge.core.events import Asked, Event, Extended, Interrupted, Started, TestOpened
from nasforge.core.trial import Measure
from nasforge.experiment.journal import Journal
from nasforge.experiment.state import load_state
from nasforge.views.mlflow.client import MlflowClient, MlflowException
from nasforge.views.mlflow.tracker import MlflowTracker, track

DOCUMENT = Path(__file__).parents[3] / "docs/howto/tracking.md"


def client_of(uri: str) -> Any:
    return MlflowClient(tracking_uri=uri)


def runs_of(runs_dir: Path, uri: str | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Runs of searches, and all others by trial number or finalist; a duplicate fails the test."""
    client = client_of(uri or f"sqlite:///{runs_dir}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    parents = [run for run in runs if run.data.tags.get("nasforge.role") == "search"]
    children: dict[str, Any] = {}
    for run in runs:
        if run.data.tags.get("nasforge.role") != "search":
            key = run.data.tags.get("nasforge.trial") or run.data.tags["nasforge.finalist"]
            assert key not in children, f"two runs for {key}"
            children[key] = run
    return parents, children


class Driver:
    """Writes events to a journal and tells a tracker, as an experiment does. It waits long: the machine may be busy."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.messages: list[str] = []
        options = {"patience_s": 120.0, "wait_s": 600.0, **options}
        self.tracker = MlflowTracker(folder, say=self.messages.append, every_s=0.02, **options)
        self.journal = Journal(folder)

    def write(self, events: list[Event]) -> None:
        for event in events:
            self.journal.append(event)
            self.tracker.on_event(event)

    def close(self) -> None:
        self.tracker.close()
        self.journal.close()


def test_a_name_that_is_handed_down_is_that_of_the_run(runs_dir: Path) -> None:
    driver = Driver(runs_dir / "search", name="cells")
    driver.write([header(), *trial(0)])
    driver.close()
    track(runs_dir / "search", name="other")
    (parent,), _ = runs_of(runs_dir)
    assert parent.info.run_name == "cells"


def test_a_search_becomes_a_parent_and_a_run_per_trial(runs_dir: Path) -> None:
    driver = Driver(runs_dir / "made")
    driver.write(mixed())
    driver.close()
    assert driver.messages == []

    parents, children = runs_of(runs_dir)
    state = load_state(runs_dir / "made")
    (parent,) = parents
    assert sorted(children) == [str(number) for number in range(8)]
    assert {run.info.experiment_id for run in children.values()} == {parent.info.experiment_id}
    assert len({run.data.tags["nasforge.key"] for run in (parent, *children.values())}) == 1
    assert {number: run.info.run_name for number, run in children.items()} == {str(n): f"made #{n}" for n in range(8)}
    assert {run.data.tags["nasforge.role"] for run in children.values()} == {"trial"}
    front = {str(trial.number) for trial in load_state(runs_dir / "made").front()}
    assert {number for number, run in children.items() if run.data.tags["nasforge.pareto"] == "true"} == front
    (data,) = parent.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "abc")

    finished = children["2"]
    assert finished.info.status == "FINISHED"
    assert finished.info.end_time - finished.info.start_time == 6000
    expected = {key: value for key, value in state.trials[2].metrics.items() if key != "time/worker_s"}
    assert finished.data.metrics == pytest.approx(expected)
    assert finished.data.params == {key: str(value) for key, value in point(2).values.items()}
    assert json.loads(finished.data.tags["nasforge.architecture"]) == point(2).to_json()
    assert finished.data.tags["nasforge.arch_id"] == point(2).arch_id
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    history = client.get_metric_history(finished.info.run_id, "val/accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.62), (2, 0.72), (3, 0.82)]

    assert children["3"].info.status == "FAILED"
    assert children["3"].data.tags["nasforge.cause"] == "diverged"
    assert children["3"].data.tags["nasforge.advice"] == "lower the learning rate"
    assert children["4"].data.tags["nasforge.status"] == "pruned"
    assert children["4"].info.status == "FINISHED"
    assert children["5"].info.status == "KILLED"
    assert children["5"].data.tags["nasforge.status"] == "rejected"
    assert children["5"].data.metrics["constraint/violation"] == 0.5

    assert parent.info.status == "FINISHED"
    assert parent.data.params["strategy"] == "evolution"
    assert parent.data.params["strategy option.population"] == "4"
    assert parent.data.params["ladder epochs"] == "1, 3"
    assert "budget.trials" not in parent.data.params
    counts = {f"trials/{status}": n for status, n in state.counts().items() if status != "running"}
    assert {key: parent.data.metrics[key] for key in counts} == counts
    assert state.best is not None
    assert parent.data.metrics["best/val/accuracy"] == state.best.metrics["val/accuracy"]
    assert parent.data.tags["nasforge.best_trial"] == str(state.best.number)
    curve = client.get_metric_history(parent.info.run_id, "best/val/accuracy")
    assert [m.step for m in curve] == list(range(1, 9))


def test_a_continued_search_goes_on_in_the_same_runs(runs_dir: Path) -> None:
    folder = runs_dir / "made"
    events = trial(1)
    first = Driver(folder)
    first.write([header(), *trial(0), *events[:4], Interrupted(1, 1)])
    first.close()
    parents, children = runs_of(runs_dir)
    assert parents[0].info.status == "KILLED"
    assert children["1"].info.status == "KILLED"
    ids = {key: run.info.run_id for key, run in children.items()}

    second = Driver(folder)
    second.write([Extended({"trials": 20}), Started(1, 2), *events[4:], *trial(2)])
    second.close()
    again, children = runs_of(runs_dir)
    assert [run.info.run_id for run in again] == [parents[0].info.run_id]
    assert {key: children[key].info.run_id for key in ids} == ids
    assert children["1"].info.status == "FINISHED"
    assert children["1"].data.tags["nasforge.attempts"] == "2"
    assert again[0].info.status == "FINISHED"
    assert again[0].data.tags["nasforge.budget.trials"] == "20"
    assert sorted(children) == ["0", "1", "2"]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated"])
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.usefixtures("as_a_server")
def test_an_answer_that_never_comes_makes_no_duplicates(
    runs_dir: Path, call: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is carried out, then the connection breaks; so too when the driver is killed at that moment."""
    folder = write(runs_dir / "made", mixed(5))
    real = getattr(MlflowClient, call)
    calls = 0

    def breaks(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        answer = real(self, *args, **kwargs)
        calls += 1
        if calls == after + 1:
            raise ConnectionError("the line is cut")
        return answer

    monkeypatch.setattr(MlflowClient, call, breaks)
    with raises(TrackingError, "failed", None, "the line is cut", "same command"):
        track(folder)
    track(folder)
    parents, children = runs_of(runs_dir)
    assert len(parents) == 1
    assert sorted(children) == ["0", "1", "2", "3", "4"]
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    for number in (0, 1, 2):
        history = client.get_metric_history(children[str(number)].info.run_id, "val/accuracy")
        assert [m.step for m in history] == [1, 2, 3], "a metric was written twice"
        assert children[str(number)].info.status == "FINISHED"
    assert len(client.get_metric_history(parents[0].info.run_id, "trials/finished")) == 5


KILLED = """
import os, signal, sys
from pathlib import Path
from nasforge.views.mlflow.tracker import track
from nasforge.views.mlflow.client import MlflowClient
call, after = sys.argv[2], int(sys.argv[3])
real, calls = getattr(MlflowClient, call), 0
def dies(self, *args, **kwargs):
    global calls
    answer = real(self, *args, **kwargs)
    calls += 1
    if calls == after:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
setattr(MlflowClient, call, dies)
track(Path(sys.argv[1]))
"""


def test_sigkill_between_making_a_run_and_saving_its_id(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(4))
    for call, after in (("create_run", 1), ("create_run", 2)):
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), call, str(after)], capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert track(folder) == len(mixed(4))
    parents, children = runs_of(runs_dir)
    assert len(parents) == 1
    assert sorted(children) == ["0", "1", "2", "3"]
    assert track(folder) == 0


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Refuses every connection, and nobody else can get it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts every connection and never answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for connection in held:
        connection.close()


def _slowest_call(driver: Driver, events: list[Event]) -> float:
    """Seconds; an event that waited for a request would take those after which the request is given up."""
    slowest = 0.0
    for event in events:
        driver.journal.append(event)
        start = time.perf_counter()
        driver.tracker.on_event(event)
        slowest = max(slowest, time.perf_counter() - start)
    return slowest


def test_a_dead_server_is_said_once_and_caught_up_later(runs_dir: Path, closed_port: int) -> None:
    driver = Driver(runs_dir / "made", uri=f"http://127.0.0.1:{closed_port}")
    assert _slowest_call(driver, mixed()) < 10
    wait_until(lambda: driver.messages, "a message")
    assert len(driver.messages) == 1
    assert "connection refused" in driver.messages[0]
    assert "nasforge track made" in driver.messages[0]
    start = time.monotonic()
    driver.close()
    assert time.monotonic() - start < 60, "half of its patience"
    assert len(driver.messages) == 2
    assert f"{len(mixed())} events" in driver.messages[1]

    with raises(TrackingError, "failed", None, f"0 of {len(mixed())} events"):
        track(runs_dir / "made", f"http://127.0.0.1:{closed_port}")
    assert track(runs_dir / "made", f"sqlite:///{runs_dir}/mlflow.db") == len(mixed())
    assert sorted(runs_of(runs_dir)[1]) == [str(number) for number in range(8)]


def test_a_server_that_never_answers_does_not_hold_up_the_end(
    runs_dir: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "200")
    driver = Driver(runs_dir / "made", uri=f"http://127.0.0.1:{silent_port}", patience_s=0.5)
    assert _slowest_call(driver, mixed()) < 60
    start = time.monotonic()
    driver.close()
    assert time.monotonic() - start < 60
    assert len(driver.messages) == 1
    assert "does not answer in time" in driver.messages[0]
    assert f"{len(mixed())} events" in driver.messages[0]


def test_a_server_that_comes_back_gets_everything(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = True
    real = MlflowClient.search_runs

    def flaky(self: Any, *args: Any, **kwargs: Any) -> Any:
        if away:
            raise ConnectionError("Connection refused")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "search_runs", flaky)
    driver = Driver(runs_dir / "made")
    driver.write(mixed())
    wait_until(lambda: driver.messages, "a message")
    assert len(driver.messages) == 1
    away = False
    driver.close()
    assert len(driver.messages) == 1, "nothing is left, so nothing more is said"
    assert sorted(runs_of(runs_dir)[1]) == [str(number) for number in range(8)]


@pytest.mark.usefixtures("as_a_server")
def test_a_refused_write_is_left_out_and_said(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlflowClient.log_batch

    def picky(self: Any, run_id: str, **content: Any) -> Any:
        if any(param.value == str(point(3).values["train.learning_rate"]) for param in content["params"]):
            raise MlflowException("Changing param values is not allowed", error_code=1000)
        return real(self, run_id, **content)

    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    driver = Driver(runs_dir / "made")
    driver.write(mixed())
    driver.close()
    (message,) = driver.messages
    assert "refused 1 writes" in message
    assert "made #3: " in message
    assert "Changing param values" in message
    assert len(runs_of(runs_dir)[1]) == 8


def test_an_architecture_too_long_for_a_tag_is_an_artifact(runs_dir: Path) -> None:
    architecture = Architecture({f"model.layer{index}.block": "x" * 400 for index in range(120)})
    folder = write(runs_dir / "made", [header(), Asked(0, Measure(architecture))])
    track(folder)
    run = runs_of(runs_dir)[1]["0"]
    assert len(run.data.params) == 120
    path = runs_dir / "mlartifacts" / run.info.run_id / "artifacts" / "architecture.json"
    assert json.loads(path.read_text()) == architecture.to_json()


def test_the_documents_code_finds_the_best_trial(runs_dir: Path) -> None:
    track(write(runs_dir / "made", mixed()))
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("/absolute/path/runs", str(runs_dir)).replace("NAME", "made"), names)
    assert names["trials"][0].data.tags["nasforge.trial"] == "7"
    assert len(names["trials"]) == 8


def test_two_processes_never_deliver_the_same_search(runs_dir: Path) -> None:
    driver = Driver(runs_dir / "made")
    driver.write(mixed(2))
    wait_until((runs_dir / "made" / "tracking.json").exists, "the file with the ids")
    with raises(TrackingError, "busy", None, "'made'"):
        track(runs_dir / "made")
    driver.close()
    assert track(runs_dir / "made") == 0


def test_deleted_runs_are_made_anew(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(3))
    assert track(folder) == len(mixed(3))
    (parent,), children = runs_of(runs_dir)
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    for run in (parent, *children.values()):
        client.delete_run(run.info.run_id)
    assert track(folder) == len(mixed(3))
    (again,), children = runs_of(runs_dir)
    assert again.info.run_id != parent.info.run_id
    assert sorted(children) == ["0", "1", "2"]


def test_a_moved_runs_folder_keeps_its_runs(runs_dir: Path, tmp_path: Path) -> None:
    write(runs_dir / "made", mixed(3))
    track(runs_dir / "made")
    moved = runs_dir.rename(tmp_path / "elsewhere")
    write(moved / "made", trial(3))
    assert track(moved / "made") == len(trial(3))
    parents, children = runs_of(moved)
    assert len(parents) == 1
    assert sorted(children) == ["0", "1", "2", "3"]


def test_finalists_get_runs_of_their_own(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", [*mixed(2), TestOpened("trial-1-seed-0", {"test/accuracy": 0.91})])
    track(folder)
    run = runs_of(runs_dir)[1]["trial-1-seed-0"]
    assert run.data.metrics == {"test/accuracy": 0.91}
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_two_drivers_may_make_the_database_at_the_same_moment(tmp_path: Path) -> None:
    imports = "import sys; from pathlib import Path; from nasforge.views.mlflow.tracker import track"
    script = f"{imports}; track(Path(sys.argv[1]))"
    folders = [write(tmp_path / f"made{index}", [header(f"made{index}"), *trial(0)]) for index in range(3)]
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=subprocess.PIPE, text=True)
        for folder in folders
    ]
    for process in started:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    client = client_of(f"sqlite:///{tmp_path}/mlflow.db")
    kept = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    for folder in folders:  # each has an experiment of its own
        runs = client.search_runs([kept[folder.name]])
        assert sorted(run.data.tags["nasforge.role"] for run in runs) == ["search", "trial"]


def test_nothing_is_printed(runs_dir: Path) -> None:
    """`--json` owns stdout, and the user's terminal is no place for another program's log."""
    folder = write(runs_dir / "made", mixed(2))
    (runs_dir / "mlflow.db").unlink()
    script = f"from pathlib import Path; from nasforge.views.mlflow.tracker import track; track(Path({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=runs_dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (runs_dir / "mlruns").exists()


def test_a_file_that_is_no_database_is_said_soon(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", mixed(1))
    (tmp_path / "text.db").write_text("this is no database, it is a text of some length" * 100)
    start = time.monotonic()
    with raises(NasforgeError, "failed", None, "not a database"):
        track(folder, f"sqlite:///{tmp_path}/text.db")
    assert time.monotonic() - start < 60, "MLflow itself tries for minutes"


def test_damaged_ids_are_refused_with_advice(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(1))
    (folder / "tracking.json").write_text('{"schema": 1, "sto')
    with raises(TrackingError, "unreadable", None, "tracking.json", "Delete the file"):
        track(folder)


def test_a_search_without_tracking_says_how_to_track_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", [header(tracking_uri="none")])
    with raises(TrackingError, "missing", "tracking_uri", "--tracking-uri"):
        track(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "kept"), "--port", str(port), "--workers", "1"]

    def serve() -> Any:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, start_new_session=True, **quiet)
        wait_until(listens, "the server listens")
        return process

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    server = serve()
    try:
        driver = Driver(tmp_path / "runs" / "made", uri=uri)
        driver.write(mixed(5))
        wait_until(lambda: not driver.tracker._delivery.left(), "all is delivered")
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        driver.write(trial(5))
        driver.close()
        assert driver.messages
        assert "nasforge track made" in driver.messages[-1]
        server = serve()
        assert track(tmp_path / "runs" / "made", uri) == len(trial(5))
        parents, children = runs_of(tmp_path, uri)
        assert len(parents) == 1
        assert sorted(children) == ["0", "1", "2", "3", "4", "5"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
