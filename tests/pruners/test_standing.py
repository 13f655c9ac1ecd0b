"""Pruners that remember decide as those that look at everything at every report, on random histories."""

from __future__ import annotations

import gc
import math
import time
from random import Random

import pytest

from nasforge.core.history import History
from nasforge.core.ladder import Rung
from nasforge.pruners.asha import ASHA
from nasforge.pruners.median import Median
from nasforge.pruners.standing import Crowds, standing_of
from nasforge.strategies.ranking import Merit, fronts
from nasforge.testing.scripted import FLAT, spec_of

LADDER = (Rung(1), Rung(3), Rung(9))
SPEC = spec_of(FLAT, ladder=LADDER)


def before(values, number):
    """The definition: how many trials rank before `number`."""
    trials = list(values)
    merits = [Merit(True, 0, tuple(-math.inf if math.isnan(v) else v for v in values[trial])) for trial in trials]
    if len(values[number]) == 1:
        return sum(other.values > merits[trials.index(number)].values for other in merits)
    ahead = 0
    for front in fronts(merits):
        if any(trials[index] == number for index in front):
            return ahead
        ahead += len(front)
    raise AssertionError(number)


def asha(history, number, step, eta):
    if step not in (1, 3):
        return False
    at_rung = {trial: steps[step] for trial, steps in history.items() if step in steps}
    if number not in at_rung or len(at_rung) < eta:
        return False
    return before(at_rung, number) >= len(at_rung) / eta


def median(history, number, step, warmup):
    if not 1 <= step < 9 or step not in history.get(number, {}):
        return False
    others = [trial for trial, steps in history.items() if trial != number and step in steps]
    if len(others) < warmup:
        return False

    def columns(trial, combine):
        rows = [values for at, values in history[trial].items() if at <= step]
        return tuple(combine(column) for column in zip(*rows, strict=True))

    standing = {trial: columns(trial, lambda column: sum(column) / len(column)) for trial in others}
    standing[number] = columns(number, max)
    return before(standing, number) > len(others) / 2


def draw(rng, objectives, kind):
    if kind == "ties":
        return tuple(float(rng.randrange(4)) for _ in range(objectives))
    if kind == "trade-off":  # accuracy against cost
        first = rng.random()
        return (first, *(rng.gauss(-first, 0.2) for _ in range(objectives - 1)))
    if kind == "rising":
        return tuple(rng.random() + 1e-3 * draw.count for _ in range(objectives))
    return tuple(rng.choice((-math.inf, math.inf, rng.random(), rng.random())) for _ in range(objectives))


draw.count = 0


@pytest.mark.parametrize("kind", ["ties", "trade-off", "rising", "infinite"])
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_decisions_are_those_of_the_definition(kind, objectives):
    rng = Random(f"{kind}{objectives}")
    pruners = [(ASHA(SPEC, eta=eta), asha, eta) for eta in (1.5, 3, 7)]
    pruners += [(Median(SPEC, warmup_trials=count), median, count) for count in (1, 5)]
    history, running, stops = History(), {}, 0
    for number in range(60):
        running[number] = 0
        while len(running) > 6 or (running and rng.random() < 0.7):  # asynchronous: reports come in any order
            trial = rng.choice(sorted(running))
            step = running[trial] = running[trial] + 1
            draw.count += 1
            pending = history.with_report(trial, step, draw(rng, objectives, kind))
            plain = {key: dict(reports) for key, reports in pending.items()}
            decisions = [pruner.prune(pending, trial, step) for pruner, _, _ in pruners]
            assert decisions == [defined(plain, trial, step, option) for _, defined, option in pruners]
            if rng.random() < 0.1:
                assert decisions == [pruner.prune(plain, trial, step) for pruner, _, _ in pruners], (
                    "a plain mapping too"
                )
            stops += decisions[1]
            history.add(trial, step, plain[trial][step])
            if decisions[1] or step == 9:
                del running[trial]
    assert stops > 5


def test_a_report_that_comes_late_is_seen():
    history = History()
    for number in range(6):
        history.add(number, 3, (float(number),))
    pruner = Median(SPEC, warmup_trials=1)
    question = history.with_report(9, 3, (2.6,))
    assert not pruner.prune(question, 9, 3)
    for number in range(6):
        history.add(number, 1, (10.0,))  # of an earlier step: the averages at step 3 are others now
    assert pruner.prune(question, 9, 3) == median({k: dict(v) for k, v in question.items()}, 9, 3, 1) is True


def test_a_pending_report_is_not_in_the_history():
    history = History()
    history.add(0, 1, (0.5,))
    pending = history.with_report(1, 1, (0.7,))
    assert dict(pending) == {0: {1: (0.5,)}, 1: {1: (0.7,)}} and len(pending) == 2
    assert dict(history) == {0: {1: (0.5,)}} and list(history.at(1)) == [0]
    again = history.with_report(0, 3, (0.9,))
    assert dict(again) == {0: {1: (0.5,), 3: (0.9,)}} and len(again) == 1


def test_a_repeated_question_about_the_same_report_leaves_the_trial_out():
    history = History()
    for number, value in enumerate((0.1, 0.2, 0.3)):
        history.add(number, 1, (value,))
    crowds = Crowds(lambda reports, step: reports[step])
    assert len(crowds.others(history.with_report(1, 1, (0.2,)), 1, 1)) == 2
    assert len(crowds.others(history.with_report(7, 1, (0.2,)), 7, 1)) == 3


def test_nan_ranks_last():
    assert standing_of([(0.1,), (0.2,)], 1).ahead((math.nan,), 9) == 2
    assert standing_of([(math.nan,), (0.2,)], 1).ahead((0.1,), 9) == 1
    assert standing_of([(0.1, 0.1), (0.2, 0.2)], 2).ahead((math.nan, 0.0), 9) == 2
    assert standing_of([(math.nan, 0.0), (0.2, 0.2)], 2).ahead((0.1, 0.1), 9) == 1


@pytest.mark.parametrize("objectives", [1, 2])
def test_the_cost_of_a_report_does_not_grow(objectives):
    """Of the last of 6,000 reports and of the first: well below a third of a millisecond in both."""
    rng, history, pruner = Random(0), History(), ASHA(SPEC)
    spent = []
    gc.disable()  # a collection looks at all that earlier tests have left
    try:
        for number in range(6000):
            pending = history.with_report(number, 1, tuple(rng.random() for _ in range(objectives)))
            began = time.process_time()
            pruner.prune(pending, number, 1)
            spent.append(time.process_time() - began)
            history.add(number, 1, pending[number][1])
    finally:
        gc.enable()
    assert sum(spent[-1000:]) / 1000 < 2e-4, "whole fronts take 150 ms"
