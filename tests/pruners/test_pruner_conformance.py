"""Every registered pruner goes through the public suite, and the suite through pruners that are wrong."""

import pytest

from nasforge import registry
from nasforge.testing import pruners as suite


def ids(value):
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("check", suite.CHECKS, ids=ids)
@pytest.mark.parametrize("name", [name for name in registry.names("pruner") if name != "none"])
def test_registered(name, check):
    check(registry.get("pruner", name))


class Always:
    def __init__(self, ladder):
        self.ladder = ladder

    def prune(self, history, number, step):
        return True


class Never(Always):
    def prune(self, history, number, step):
        return False


class Remembers(Always):
    """Stops every other time it is asked."""

    asked = 0

    def prune(self, history, number, step):
        self.asked += 1
        return len(history) > 5 and self.asked % 2 == 0 and step < 9


class Strict(Always):
    """Wants everybody to be strictly better than somebody."""

    def prune(self, history, number, step):
        others = [steps[step] for trial, steps in history.items() if trial != number and step in steps]
        return len(others) > 2 and not any(history[number][step] > other for other in others)


FAULTS = [
    (suite.the_first_trial_is_never_stopped, Always),
    (suite.the_best_is_never_stopped, Always),
    (suite.bad_trials_are_stopped, Never),
    (suite.equal_trials_are_treated_alike, Strict),
    (suite.nothing_is_stopped_at_the_end, Always),
    (suite.a_missing_report_is_no_reason, Always),
    (suite.pruning_is_pure, Remembers),
    (suite.several_objectives_keep_the_front, Never),
    (suite.a_ladder_of_one_rung_stops_nothing, Always),
]


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=ids)
def test_fault_is_found(check, faulty):
    with pytest.raises(AssertionError):
        check(faulty)


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS} == set(suite.CHECKS)
