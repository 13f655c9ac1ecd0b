"""A supernet job through both runners: killed while it trains, continued to the same bits, its paths then measured."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from nasforge.core.errors import JournalError
from nasforge.core.events import Reported
from nasforge.core.trial import Measure, Result, TrainShared
from nasforge.experiment.journal import read_events
from nasforge.experiment.state import State, load_state
from nasforge.testing.one_shot import EPOCHS, drive


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> State:
    return drive(tmp_path_factory.mktemp("whole"), "local").state


def reports(folder: Path) -> int:
    try:
        return sum(isinstance(event, Reported) for event in read_events(folder / "shared"))
    except JournalError:
        return 0


def killed_and_continued(folder: Path, runner: str, *strategy: str) -> State:
    command = [sys.executable, "-m", "nasforge.testing.one_shot", str(folder), runner, *strategy]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_until(lambda: reports(folder) >= 2 or driver.poll() is not None, "two epochs")
    assert driver.poll() is None, driver.stderr and driver.stderr.read().decode()[-2000:]
    driver.kill()
    driver.communicate()
    assert 2 <= reports(folder) < EPOCHS, "the kill came too late to be a test"
    assert load_state(folder / "shared").trials[0].result is None
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_state(folder / "shared")


def results(state: State) -> list[Any]:
    """What must not depend on the runner or on kills."""
    names = ("val/accuracy", "val/loss", "train/loss")
    return [
        (
            trial.proposal.to_json() if isinstance(trial.proposal, TrainShared) else trial.architecture.values,  # type: ignore[union-attr]
            {name: trial.result.metrics.get(name) for name in names},
            trial.result.artifacts["weights"].sha256,
        )
        for trial in state.trials.values()
        if trial.result
    ]


def test_supernet_then_measures_on_inherited_weights(uninterrupted: State) -> None:
    shared, *paths = uninterrupted.trials.values()
    assert isinstance(shared.proposal, TrainShared) and shared.status == "finished"
    assert shared.result and [step.step for step in shared.steps] == list(range(1, EPOCHS + 1))
    assert len(paths) >= 2 and all(path.status == "finished" for path in paths)
    for path in paths:
        assert isinstance(path.proposal, Measure)
        assert path.proposal.weights == shared.result.artifacts["weights"]
        assert path.result and path.result.steps_done == 0 and path.metrics["val/accuracy"] > 0.2
    assert uninterrupted.best in paths, "a supernet is not a candidate"


def test_why_there_is_no_best_network(uninterrupted: State) -> None:
    state = State(uninterrupted.header)
    assert state.why_no_best == "no network finished (no trials)"
    state.trials[0] = uninterrupted.trials[0]
    assert state.best is None
    assert state.why_no_best.startswith("only a supernet was trained (trial 0), no network measured yet; ")
    state.trials[1] = replace(uninterrupted.trials[1], result=Result("rejected"))
    assert state.why_no_best == "no network finished (1 rejected, 1 supernet trained)"


@pytest.mark.slow
def test_killed_local_driver_continues_to_the_same_bits(tmp_path: Path, uninterrupted: State) -> None:
    state = killed_and_continued(tmp_path, "local")
    assert state.trials[0].attempts == 2
    assert results(state) == results(uninterrupted)


@pytest.mark.slow
def test_killed_search_of_alphas_continues_to_the_same_bits(tmp_path: Path) -> None:
    """A SIGKILL between epochs of the bilevel loop: alphas, weights and what is derived from them are the same."""
    whole = drive(tmp_path / "whole", "local", "gdas").state
    state = killed_and_continued(tmp_path / "cut", "local", "gdas")
    assert state.trials[0].attempts == 2 and state.trials[0].result and whole.trials[0].result
    assert state.trials[0].result.alphas == whole.trials[0].result.alphas is not None
    assert (
        results(state) == results(whole) and len(whole.trials) == 7
    )  # the supernet, then all six paths by their alphas


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray_a_search_of_alphas_finds_what_it_finds_here(tmp_path: Path) -> None:
    """One worker and the same seed: the same proposals and figures, whichever runner."""
    here, there = (drive(tmp_path / runner, runner, "gdas").state for runner in ("local", "ray_tune"))
    assert results(here) == results(there)


@pytest.mark.slow
@pytest.mark.ray
def test_killed_ray_driver_continues_to_the_same_bits(tmp_path: Path, uninterrupted: State) -> None:
    state = killed_and_continued(tmp_path, "ray_tune")
    assert state.trials[0].attempts == 2
    assert results(state) == results(uninterrupted)
