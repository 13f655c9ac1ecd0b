"""The local runner: results, failures, pruning, and twenty SIGKILLs of its driver."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from expecting import raises

from nasforge.api.search import search
from nasforge.api.stopping import stops_ignored, terminable
from nasforge.core.errors import DeviceLost, JournalError, SearchError, StopNow
from nasforge.core.events import Interrupted
from nasforge.core.protocols import Report
from nasforge.core.trial import Proposal, Result
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import load_state
from nasforge.runners.local import run
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


def test_a_stop_that_another_exception_has_displaced_is_no_failure(tmp_path: Path) -> None:
    class Saves(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            try:
                raise StopNow("a signal while a file is written")
            finally:
                raise RuntimeError("unexpected pos 102912 vs 102808")  # as torch.save says

    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment, pytest.raises(StopNow, match="a signal"):
        run(experiment, Saves())
    assert load_state(config.folder).trials[0].result is None


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("evolution", "local_search", "nsga2")]


@pytest.mark.parametrize("strategy", [*_SLOW, "random"])
def test_five_kills_each_lose_nothing_and_change_nothing(tmp_path: Path, strategy: str) -> None:
    count = campaign(tmp_path, "local", strategy, trials=60, kills=5, rng=Random(strategy))
    assert count.clean, count
    assert count.kills >= 3, f"the search ended before it could be killed: {count}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, ("failed", None, "nasforge.core.trial.Result")),
        (Result("finished", {"val/accuracy": "high"}), ("failed", None, "val/accuracy", "high")),  # type: ignore[dict-item]
    ],
)
def test_what_an_evaluator_must_not_return(tmp_path: Path, answer: Any, expected: str) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment, raises(SearchError, *expected):
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
    with toy_experiment(config) as experiment, raises(SearchError, "failed", None, "trial 0"):
        run(experiment, evaluator)
    with toy_experiment(config) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == 3


class LosesItsGPU(Planted):
    """Raises what torch raises after a failed assertion on a GPU, in the first attempt at trial 2."""

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        if report.number == 2 and report.attempt == 1:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return super().__call__(proposal, report)


def test_a_gpu_that_has_failed_ends_the_search_and_the_same_command_continues(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 5})
    with toy_experiment(config) as experiment, raises(DeviceLost, "failed", "device", "device-side assert"):
        run(experiment, LosesItsGPU())
    assert load_state(config.folder).counts()["finished"] == 2 and load_state(config.folder).counts()["failed"] == 0
    with toy_experiment(config) as experiment:
        run(experiment, LosesItsGPU())
        state = experiment.state
    assert state.counts()["finished"] == 5 and state.trials[2].attempts == 2


def test_a_network_that_breaks_the_gpu_every_time_fails_at_last(tmp_path: Path) -> None:
    config = toy_config(tmp_path, budget={"trials": 2})

    def evaluator(proposal: Proposal, report: Report) -> Result:
        if report.number == 0:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        return Planted()(proposal, report)

    for _ in range(2):
        with toy_experiment(config) as experiment, pytest.raises(DeviceLost):
            run(experiment, evaluator)
    with toy_experiment(config) as experiment:
        run(experiment, evaluator)
        state = experiment.state
    assert state.trials[0].result and state.trials[0].result.error and state.trials[0].result.error.cause == "crash"
    assert state.counts()["finished"] == 1


def test_a_full_disk_is_not_the_trials_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(tmp_path)
    with toy_experiment(config) as experiment:

        def report(*_: Any) -> bool:
            raise JournalError("no space left on device")

        monkeypatch.setattr(experiment, "report", report)
        with raises(JournalError, "invalid", None, "no space left"):
            run(experiment, Planted())
    assert load_state(config.folder).counts()["failed"] == 0


SIGNALLED = """
import sys, time; from pathlib import Path
from nasforge.api.stopping import search_signals; from nasforge.core.errors import StopNow
from nasforge.testing.toys import Planted, toy_config, toy_experiment
from nasforge.runners.local import run
with toy_experiment(toy_config(Path(sys.argv[1]), budget={"trials": 500})) as experiment:
    class Waits(Planted):
        def __call__(self, proposal, report):
            if report.number == 0:
                print("ready", flush=True)
                while not (experiment.stopping and sys.argv[2] == "1"):
                    time.sleep(0.01)
            return super().__call__(proposal, report)

    with search_signals(experiment, lambda text: print(text, flush=True)):
        try:
            run(experiment, Waits())
        except StopNow as stop:
            experiment.interrupt()
            print("now:", stop, flush=True)
"""


def signalled(folder: Path, *signals: int) -> str:
    """Send signals to a search in its first trial, one after the other is handled; returns what it prints.

    After one Ctrl-C the trial ends by itself, else it never does.
    """
    command = [sys.executable, "-c", SIGNALLED, str(folder), str(signals.count(signal.SIGINT))]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    output = ""
    for number in signals:
        output += driver.stdout.readline()
        os.kill(driver.pid, number)
    output += driver.communicate(timeout=200)[0]
    assert driver.returncode == 0 and output.startswith("ready\n")
    return output


def test_a_closed_terminal_stops_a_search(tmp_path: Path) -> None:
    assert "now: stopped on SIGHUP at 0 of 500 trials" in signalled(tmp_path, signal.SIGHUP)


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for block in (terminable(), stops_ignored()):
            with block:
                assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with terminable():
            assert callable(signal.getsignal(signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_once_finishes_what_runs(tmp_path: Path) -> None:
    assert "Stopping: no new trials" in signalled(tmp_path, signal.SIGINT)
    counts = load_state(tmp_path / "toy").counts()
    assert counts["finished"] == 1 and counts["running"] == 0


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)])
def test_ctrl_c_twice_or_sigterm_stops_now_and_can_be_continued(tmp_path: Path, signals: tuple[int, ...]) -> None:
    assert "now: stopped" in signalled(tmp_path, *signals)
    folder = tmp_path / "toy"
    left = load_state(folder)
    assert left.counts()["running"] == 1
    assert any(isinstance(event, Interrupted) for event in read_events(folder))
    done = len(left.trials)
    with toy_experiment(toy_config(tmp_path, budget={"trials": done + 2})) as experiment:
        run(experiment, Planted())
        assert experiment.state.counts()["finished"] == done + 2


class Leaves(BaseException):
    """An exception that `except Exception` does not catch."""


def exits() -> None:
    sys.exit(0)


def exits_at_once() -> None:
    os._exit(0)


def interrupts_itself() -> None:
    raise KeyboardInterrupt


def leaves() -> None:
    raise Leaves("with a word")


@pytest.fixture
def listening() -> Iterator[None]:
    """As in a search: Ctrl-C has a handler that does not raise KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("act", "says"),
    [
        (exits, "SystemExit: 0 (test_local.py:"),
        (exits_at_once, "SystemExit: os._exit(0)"),
        (interrupts_itself, "KeyboardInterrupt"),
        (leaves, "Leaves: with a word"),
    ],
)
def test_an_evaluator_cannot_end_the_search(tmp_path: Path, act: Callable[[], None], says: str) -> None:
    class Ends(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            if report.number == 1:
                act()
            return super().__call__(proposal, report)

    really_exit = os._exit
    with toy_experiment(toy_config(tmp_path, budget={"trials": 3})) as experiment:
        run(experiment, Ends())
        state = experiment.state
    error = state.trials[1].result.error  # type: ignore[union-attr]
    assert error and error.cause == "error" and says in error.message
    assert state.counts()["finished"] == 2 and os._exit is really_exit


def test_ctrl_c_in_an_evaluator_is_the_users_where_nobody_else_listens(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def evaluator(proposal: Proposal, report: Report) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        return time.sleep(1)  # type: ignore[func-returns-value, return-value]

    try:
        with toy_experiment(toy_config(tmp_path)) as experiment, pytest.raises(KeyboardInterrupt):
            run(experiment, evaluator)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("swallow", [Exception, BaseException])
def test_what_the_driver_raises_in_a_report_cannot_be_swallowed(tmp_path: Path, swallow: type[BaseException]) -> None:
    class Swallows(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            try:
                return super().__call__(proposal, report)
            except swallow:
                return Result("finished", {"val/accuracy": 0.5})

    error = JournalError("disk full") if swallow is Exception else StopNow("stop")
    with toy_experiment(toy_config(tmp_path)) as experiment:
        if isinstance(error, StopNow):
            experiment.journal.append = _stopping(experiment, error)  # type: ignore[method-assign]
        else:
            experiment.report = _raising(error)  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            run(experiment, Swallows())


def _raising(error: BaseException) -> Any:
    def report(*_: Any) -> bool:
        raise error

    return report


def _stopping(experiment: Any, stop: BaseException) -> Any:
    really = experiment.journal.append

    def append(event: Any) -> Any:
        if event.kind == "reported":
            experiment.stop_now(stop)  # as a signal's handler does while the line is written
        return really(event)

    return append


FORKED = """
import os, sys; from pathlib import Path
from nasforge.runners.local import run
from nasforge.testing.toys import Planted, toy_config, toy_experiment

class Forks(Planted):
    def __call__(self, proposal, report):
        child = os.fork()
        if child == 0 and report.number % 3 == 0:
            sys.exit(7)
        if child == 0 and report.number % 3 == 1:
            super().__call__(proposal, report)
        if child:
            self.codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return super().__call__(proposal, report)

evaluator = Forks()
evaluator.codes = []
with toy_experiment(toy_config(Path(sys.argv[1]), budget={"trials": 6})) as experiment:
    run(experiment, evaluator)
print("driver", evaluator.codes, flush=True)
"""


def test_a_child_that_an_evaluator_forks_neither_writes_nor_drives(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.stdout == "driver [7, 1, 1, 7, 1, 1]\n", done.stderr
    assert "report was called in a child process" in done.stderr
    state = load_state(tmp_path / "toy")
    assert state.counts()["finished"] == 6 and all(trial.attempts == 1 for trial in state.trials.values())


def test_a_child_process_never_writes_the_journal(tmp_path: Path) -> None:
    with toy_experiment(toy_config(tmp_path)) as experiment:
        child = os.fork()
        if child == 0:
            try:
                experiment.next()
            except JournalError as error:
                os._exit(7 if "forked process" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert [event.kind for event in read_events(tmp_path / "toy")] == ["header"]


def test_one_ctrl_c_is_a_stop_unless_the_search_is_complete(tmp_path: Path) -> None:
    class Signals(Planted):
        def __call__(self, proposal: Proposal, report: Report) -> Result:
            if report.number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(proposal, report)

    config = toy_config(tmp_path, budget={"trials": 5})
    with pytest.raises(StopNow, match="stopped at 3 of 5 trials; the same command continues"):
        search(config, made_evaluator=Signals(), say=lambda text: None)
    assert load_state(config.folder).counts()["finished"] == 3
    whole = toy_config(tmp_path, name="whole", budget={"trials": 3})
    assert search(whole, made_evaluator=Signals(), say=lambda text: None).counts()["finished"] == 3
