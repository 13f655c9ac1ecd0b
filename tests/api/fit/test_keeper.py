"""The clock of a fit's search: deadlines of trainings, and what a late first candidate is told."""

import time
from types import SimpleNamespace

import pytest

from nasforge.api.fit.keeper import Keeper
from nasforge.api.fit.log import FitLog
from nasforge.core.errors import TimeOver
from nasforge.core.events import Checked, Reported
from nasforge.core.trial import Result


class Stopped:
    """An experiment as the keeper sees it."""

    def __init__(self, *trials):
        self.state = SimpleNamespace(
            trials=dict(enumerate(trials)),
            open_trials=[t for t in trials if t.result is None],
            accepted=len(trials),
        )

    def stop_now(self, stop):
        raise stop


def trial(*steps, comparable=False):
    result = SimpleNamespace(status="finished") if comparable else None
    return SimpleNamespace(
        steps=[SimpleNamespace(step=s, metrics={}) for s in steps], result=result, comparable=comparable
    )


def keeper_of(log, experiment, end, trainings=5, **more):
    keeper = Keeper(log, end, trainings, lambda text: None, **more)
    keeper._experiment = experiment
    return keeper


@pytest.fixture
def log(tmp_path, clock):
    """Of a fit that has used 100 s; only the tests move the clock."""
    with FitLog(tmp_path, {}, time.monotonic() - 100) as log:
        yield log


@pytest.mark.parametrize(("steps", "share"), [((), 5), ((1,), 4), ((1, 2, 3, 4), 1)])
def test_the_trainings_of_a_first_candidate_share_the_time_that_is_left(log, steps, share):
    latest = keeper_of(log, Stopped(trial(*steps)), 200).deadline()
    assert latest == pytest.approx(time.monotonic() + 100 / share, abs=0.01)


def test_a_first_training_that_is_late_already_ends_with_its_first_epoch(log):
    assert keeper_of(log, Stopped(trial()), 50).deadline() <= time.monotonic()


def test_a_later_candidate_may_be_a_little_late(log):
    keeper = keeper_of(log, Stopped(trial(1, comparable=True), trial()), 200)
    assert keeper.deadline() == pytest.approx(time.monotonic() + 104, abs=0.01)


def test_a_late_training_ends_the_search_but_for_a_first_result(log):
    late = Reported(1, 1, 5, {}, "continue")
    first = keeper_of(log, Stopped(trial(), trial()), 50)
    first.on_event(late)
    assert not first.ended
    later = keeper_of(log, Stopped(trial(comparable=True), trial()), 50)
    with pytest.raises(TimeOver):
        later.on_event(late)
    assert later.ended


def test_without_an_experiment_there_is_no_deadline(log):
    assert Keeper(log, 50, 5, lambda text: None).deadline() is None


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (Result("finished", {"val/accuracy": 0.9875}), "finished, accuracy 0.9875 (best so far); "),
        (Result.failed("diverged", "the loss became NaN"), "failed: the loss became NaN; "),
    ],
)
def test_the_line_of_a_candidate(log, result, line):
    lines = []
    keeper = Keeper(log, 200, 5, lines.append)
    one = SimpleNamespace(number=0, result=result, verdict="accepted", comparable=True)
    keeper._experiment = SimpleNamespace(
        state=SimpleNamespace(trials={0: one}, best=one if result.error is None else None)
    )
    keeper._tell(0)
    assert len(lines) == 1 and lines[0].startswith(f"candidate 0: {line}")


def test_where_limits_refuse_all_a_first_candidate_is_looked_for_in_the_time_of_the_last_trainings(log):
    refused = Checked(0, {}, "rejected")
    looking = keeper_of(log, Stopped(), 90, last=100.0)
    looking.on_event(refused)
    assert not looking.ended
    for experiment, last in ((Stopped(), 0.0), (Stopped(), 20.0), (Stopped(trial()), 100.0)):
        with pytest.raises(TimeOver):
            keeper_of(log, experiment, 90, last=last).on_event(refused)


@pytest.mark.parametrize(("needed", "left"), [(20.0, 20.0), (500.0, 40.0)])
def test_a_first_candidate_that_comes_late_has_time_to_train(log, needed, left):
    keeper = keeper_of(log, Stopped(trial()), 90, trainings=1, last=100.0, needed=needed)
    keeper.on_event(Checked(0, {}, "accepted"))
    assert keeper.deadline() == pytest.approx(time.monotonic() + left, abs=0.01)
