"""The public suite itself: every check fails for a strategy with the fault it is there for."""

import random
from dataclasses import replace

import pytest

from nasforge.core.architecture import Architecture
from nasforge.core.trial import Measure, Origin
from nasforge.strategies.choosers import following
from nasforge.strategies.random import Random
from nasforge.testing import strategies as suite


class OutsideTheSpace(Random):
    def ask(self, number):
        values = dict(super().ask(number).architecture.values)
        return Measure(Architecture({**values, next(iter(values)): "elsewhere"}))


class BornOfTheFuture(Random):
    """Says that a proposal stems from a trial that is yet to come."""

    def ask(self, number):
        return Measure(super().ask(number).architecture, origin=Origin(parents=(number + 1,)))


class Unseeded(Random):
    def __init__(self, spec):
        super().__init__(replace(spec, seed=random.SystemRandom().randrange(10**9)))


class SeedIgnored(Random):
    def __init__(self, spec):
        super().__init__(replace(spec, seed=0))


class StreamCarried(Random):
    """One generator for all asks, so that a replay falls behind."""

    def __init__(self, spec):
        super().__init__(spec)
        self._stream = random.Random(spec.seed)

    def ask(self, number):
        return Measure(self._space.sample(self._stream))


class NeedsValues(Random):
    def tell(self, number, result):
        self.best = max(getattr(self, "best", 0.0), result.values[0])


class CountsQuestions(Random):
    """None every other time, and the asking itself moves it on."""

    asked = 0

    def ask(self, number):
        self.asked += 1
        return None if self.asked % 3 == 0 else super().ask(self.asked)


class KeepsWhatIsWithdrawn(Random):
    def withdraw(self, number):
        pass


class Forgetful(Random):
    def ask(self, number):
        self._seen.clear()
        return Measure(self._space.fixed({}).sample(random.Random(f"{self._seed}/{number // 2}")))


class IgnoresOneDecision(Random):
    def __init__(self, spec):
        key = spec.space.decisions[0].key
        first = spec.space.default_point().values[key]
        super().__init__(replace(spec, space=spec.space.fixed({key: first})))


class RefusesFullyDecided(Random):
    def ask(self, number):
        return None if self._space.size == 1 else super().ask(number)


class BreaksOnSecondObjective(Random):
    def tell(self, number, result):
        if result.values and len(result.values) > 1:
            raise IndexError("only one")


class StandsStill(Random):
    """Learns nothing and hardly looks around: changes the default point at one decision."""

    def ask(self, number):
        key = random.Random(number).choice(sorted(self._space.default_point().values))
        values = {k: v for k, v in self._space.default_point().values.items() if k != key}
        return Measure(self._space.decide(following(values, random.Random(number))))


FAULTS = [
    (suite.proposals_are_valid, OutsideTheSpace),
    (suite.origins_name_earlier_trials, BornOfTheFuture),
    (suite.same_seed_same_asks, Unseeded),
    (suite.same_seed_same_asks, SeedIgnored),
    (suite.replay_continues, StreamCarried),
    (suite.failures_and_rejections_are_survived, NeedsValues),
    (suite.none_is_pure, CountsQuestions),
    (suite.withdrawn_asks_leave_no_trace, KeepsWhatIsWithdrawn),
    (suite.nothing_is_proposed_twice, Forgetful),
    (suite.small_spaces_are_exhausted, IgnoresOneDecision),
    (suite.one_point_is_enough, RefusesFullyDecided),
    (suite.several_objectives_or_an_error, BreaksOnSecondObjective),
    (suite.planted_optimum_is_approached, StandsStill),
]


@pytest.mark.parametrize(("check", "faulty"), FAULTS, ids=lambda item: item.__name__)
def test_fault_is_found(check, faulty):
    with pytest.raises((AssertionError, TypeError, IndexError)):
        check(faulty)


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS} == {*suite.CHECKS, *suite.ADAPTIVE_CHECKS}
