import math

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.ladder import Rung
from nasforge.core.ranges import is_number
from nasforge.pruners.asha import ASHA
from nasforge.pruners.median import Median
from nasforge.testing.scripted import FLAT, spec_of

LADDER = (Rung(1), Rung(3), Rung(9))
SPEC = spec_of(FLAT, ladder=LADDER)


def at(step, *values):
    return {number: {step: value if isinstance(value, tuple) else (value,)} for number, value in enumerate(values)}


def test_asha_keeps_the_top_share_of_what_reached_the_rung():
    history = at(3, *(n / 10 for n in range(9)))
    stopped = [number for number in history if ASHA(SPEC, eta=3).prune(history, number, 3)]
    assert stopped == [0, 1, 2, 3, 4, 5]
    assert [n for n in history if ASHA(SPEC, eta=9).prune(history, n, 3)] == list(range(8))


def test_asha_compares_at_equal_steps_only():
    history = at(3, 0.1, 0.2, 0.3)
    history |= {10 + n: {1: (0.9,)} for n in range(20)}  # much better, at another rung
    assert not ASHA(SPEC).prune(history, 2, 3)
    assert ASHA(SPEC).prune(history, 0, 3)


def test_asha_decides_at_rungs_only_and_waits_for_eta_trials():
    history = at(2, *(n / 10 for n in range(9)))
    assert not ASHA(SPEC).prune(history, 0, 2)
    assert not ASHA(SPEC, eta=4).prune(at(3, 0.1, 0.2, 0.3), 0, 3)


def test_asha_with_two_objectives_keeps_whole_fronts():
    history = at(1, (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (0.4, 0.4), (-1.0, -1.0), (0.3, 0.3))
    pruner = ASHA(SPEC, eta=2)
    assert [number for number in history if pruner.prune(history, number, 1)] == [3, 4, 5]


def test_median_compares_the_best_with_running_averages():
    others = {number: {1: (0.2,), 2: (0.6,)} for number in range(5)}  # on average 0.4 after two epochs
    pruner = Median(SPEC)
    assert not pruner.prune({**others, 9: {1: (0.45,), 2: (0.1,)}}, 9, 2)
    assert pruner.prune({**others, 9: {1: (0.35,), 2: (0.1,)}}, 9, 2)


def test_median_warms_up():
    history = at(1, 0.9, 0.8, 0.7, 0.1)
    assert not Median(SPEC, warmup_trials=4).prune(history, 3, 1)
    assert Median(SPEC, warmup_trials=3).prune(history, 3, 1)


@pytest.mark.parametrize("eta", [1, 0, -3, math.inf, math.nan, "3", True])
def test_asha_refuses_a_wrong_eta(eta):
    with raises(ConfigError, "range" if is_number(eta) else "type", "pruner.eta"):
        ASHA(SPEC, eta=eta)


@pytest.mark.parametrize("warmup_trials", [0, 1.5, "5", True])
def test_median_refuses_a_wrong_warm_up(warmup_trials):
    with raises(ConfigError, "range" if is_number(warmup_trials) else "type", "pruner.warmup_trials"):
        Median(SPEC, warmup_trials=warmup_trials)


def test_asha_that_would_stop_nothing_is_refused():
    with raises(ConfigError, "range", "pruner.at", 100, 9):
        ASHA(SPEC, at=[9, 100])
    assert ASHA(SPEC, at=[8, 100]).prune(at(8, *(n / 10 for n in range(9))), 0, 8)


def test_median_refuses_a_ladder_without_epochs():
    with raises(ConfigError, "conflict", "pruner"):
        Median(spec_of(FLAT, ladder=(Rung(proxies=("synflow",)),)))
