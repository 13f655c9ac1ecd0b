"""The local runner: results, failures, pruning, and twenty SIGKILLs of its driver."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nasforge.core.errors import JournalError, SearchError
from nasforge.core.events import Interrupted
from nasforge.core.trial import Result
from nasforge.journal import read_events
from nasforge.runners.local import run
from nasforge.state import load_state
from nasforge.testing.kills import campaign
from nasforge.testing.toys import Planted, toy_config, toy_experiment


def test_every_trial_is_finished_with_its_metrics(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    evaluator = Planted()
    with toy_experiment(config) as experiment:
        run(experiment, evaluator)
        state = experiment.state
    assert state.counts()["finished"] == 12
    for trial in state.trials.values():
        assert trial.result and [step.step for step in trial.steps] == [1, 2, 3]
        assert trial.result.values == (trial.metrics["val/accuracy"],)
    assert load_state(config.folder).ranking() == state.ranking()


def test_an_exception_is_a_failure_with_its_traceback_on_disk(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 3})
    with toy_experiment(config) as experiment:
        run(experiment, Planted(fail=(1,)))
        error = experiment.state.trials[1].result.error  # type: ignore[union-attr]
    assert error and error.cause == "error" and "planted failure of trial 1 (toys.py:" in error.message
    assert "RuntimeError: planted failure" in (config.folder / "artifacts/1/attempt-1/traceback.txt").read_text()
    assert experiment.state.counts()["finished"] == 2


@pytest.mark.parametrize("strategy", ["evolution", "local_search", "nsga2", "random"])
def test_five_kills_each_lose_nothing_and_change_nothing(tmp_path: Path, strategy: str) -> None:
    count = campaign(tmp_path, "local", strategy, trials=60, kills=5, rng=Random(strategy))
    assert count.clean, count
    assert count.kills >= 3, f"the search ended before it could be killed: {count}"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "must be a nasforge.core.trial.Result, got NoneType"),
        (Result("finished", {"val/accuracy": "high"}), "'val/accuracy' must be a number, got 'high'"),  # type: ignore[dict-item]
    ],
)
def test_what_an_evaluator_must_not_return(tmp_path: Path, answer: Any, says: str) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment, pytest.raises(SearchError, match=says):
        run(experiment, lambda proposal, report: answer)
    state = load_state(tmp_path / "toy")
    assert state.counts()["failed"] == 6, "a search in which nothing works ends soon"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_disk_that_is_full_while_training_is_not_the_trials_fault(tmp_path: Path, error: Exception) -> None:
    def evaluator(proposal: Any, report: Any) -> Result:
        raise error

    config = toy_config(tmp_path, budget={"trials": 3})
    with toy_experiment(config) as experiment, pytest.raises(SearchError, match="make room, then run the same command"):
        run(experiment, evaluator)
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == 3


def test_a_full_disk_is_not_the_trials_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment:

        def report(*_: Any) -> bool:
            raise JournalError("no space left on device")

        monkeypatch.setattr(experiment, "report", report)
        with pytest.raises(JournalError, match="no space left"):
            run(experiment, Planted())
    assert load_state(config.folder).counts()["failed"] == 0


SIGNALLED = """
import sys; from pathlib import Path; from nasforge.compose import _signals, StopNow
from nasforge.testing.toys import Planted, toy_config, toy_experiment
from nasforge.runners.local import run
with toy_experiment(toy_config(Path(sys.argv[1]), budget={"trials": 500})) as experiment:
    with _signals(experiment, lambda text: print(text, flush=True)):
        print("ready", flush=True)
        try:
            run(experiment, Planted(seconds=0.2))
        except StopNow as stop:
            experiment.interrupt()
            print("now:", stop, flush=True)
"""


def signalled(folder: Path, *signals: int) -> str:
    driver = subprocess.Popen([sys.executable, "-c", SIGNALLED, str(folder)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout and driver.stdout.readline() == "ready\n"
    for number, seconds in zip(signals, (0.5, 0.1), strict=False):
        time.sleep(seconds)
        os.kill(driver.pid, number)
    output, _ = driver.communicate(timeout=30)
    assert driver.returncode == 0
    return output


def test_ctrl_c_once_finishes_what_runs(tmp_path: Path) -> None:
    assert "Stopping: no new trials" in signalled(tmp_path, signal.SIGINT)
    counts = load_state(tmp_path / "toy").counts()
    assert counts["finished"] >= 1 and counts["running"] == 0


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_ctrl_c_twice_or_sigterm_stops_now_and_can_be_continued(tmp_path: Path, signals: tuple[int, ...]) -> None:
    assert "now: stopped" in signalled(tmp_path, *signals)
    folder = tmp_path / "toy"
    left = load_state(folder)
    if len(signals) == 1:
        assert left.counts()["running"] == 1
        assert any(isinstance(event, Interrupted) for event in read_events(folder))
    done = len(left.trials)
    with toy_experiment(toy_config(tmp_path, budget={"trials": done + 2})) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == done + 2
