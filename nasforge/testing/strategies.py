"""Conformance suite for strategies: run it on your own.

    import pytest
    from nasforge.testing.strategies import ADAPTIVE_CHECKS, CHECKS

    @pytest.mark.parametrize("check", CHECKS + ADAPTIVE_CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyStrategy)

A check takes what the registry takes, a factory called as `factory(spec)`, and raises AssertionError with the reason.
`ADAPTIVE_CHECKS` are for strategies that learn. A strategy may refuse a space by a ConfigError when it is made, but not
all of `SPACES`.
"""

# ruff: noqa: S101 - a check reports failures by AssertionError, as tests do

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from functools import cache

from nasforge.core import checks
from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SpaceError
from nasforge.core.protocols import Strategy
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Proposal, Result, TrainShared
from nasforge.strategies.differentiable import SHARED_WEIGHTS, recipe_defaults
from nasforge.strategies.random import Random
from nasforge.testing.scripted import (
    FLAT,
    MIXED,
    NESTED,
    SMALL,
    SPACES,
    Factory,
    Line,
    best_planted,
    drive,
    replay,
    spec_of,
)


def proposals_are_valid(factory: Factory) -> None:
    """Check that every proposal is a point of the space, exactly as the space itself would make it."""
    for space in _taken(factory):
        for _, content in drive(factory(spec_of(space, seed=0)), space, asks=30):
            if isinstance(content, Measure):
                _assert_point(space, content.architecture)
            if isinstance(content, TrainShared):
                assert set(content.space.domains) <= set(space.domains)


def same_seed_same_asks(factory: Factory) -> None:
    """Check that two strategies made and told alike ask alike, and with another seed do not."""
    for space in _taken(factory):
        first, second, other = (drive(factory(spec_of(space, seed=seed)), space, asks=25) for seed in (3, 3, 4))
        assert first == second, f"{space.name}: the same seed gave other asks"
        assert first != other, f"{space.name}: the seed changes nothing"


def replay_continues(factory: Factory) -> None:
    """Check that after a replay of any part of the journal the search continues as if uninterrupted.

    Three trials are out at a time and come back out of order; some fail, some are rejected, some pruned.
    """
    for space in _taken(factory):
        whole = drive(factory(spec_of(space, seed=1)), space, asks=30)
        for cut in range(0, len(whole), 5):
            replayed = factory(spec_of(space, seed=1))
            replay(replayed, whole[:cut])
            asks = min(30, 3 + sum(not isinstance(content, Result) for _, content in whole[:cut]))
            until = next((i for i, line in enumerate(whole) if line[0] == asks - 1), len(whole))
            again = drive(replayed, space, asks=asks, journal=whole[:cut])
            assert again[: until + 1] == whole[: until + 1], f"{space.name}: after {cut} lines the next asks differ"


def failures_and_rejections_are_survived(factory: Factory) -> None:
    """Check that a strategy told only failures, rejections or early prunings keeps proposing valid points."""
    endings = (
        Result.failed("diverged", "the loss became NaN"),
        Result("rejected", metrics={"cost/flops": 2e9, "constraint/violation": 1.5}),
        Result("pruned", steps_done=1),
        Result("finished", values=(math.nan,), steps_done=3),
    )
    space = NESTED if NESTED in _taken(factory) else _taken(factory)[0]
    for ending in endings:
        strategy = factory(spec_of(space, seed=0))
        for number in range(15):
            proposal = strategy.ask(number)
            if proposal is None:
                break
            if isinstance(proposal, Measure):
                _assert_point(space, proposal.architecture)
            strategy.tell(number, ending)


def origins_name_earlier_trials(factory: Factory) -> None:
    """Check that a proposal's origin names only earlier trials, and is the same after a replay."""
    for space in _taken(factory):
        whole = drive(factory(spec_of(space, seed=6)), space, asks=25)
        replayed = factory(spec_of(space, seed=6))
        replay(replayed, whole[:20])
        again = drive(replayed, space, asks=25, journal=whole[:20])
        for (number, content), (_, same) in zip(whole, again, strict=True):
            if isinstance(content, Measure) and isinstance(same, Measure):
                checks.proposal(content)
                parents = content.origin.parents if content.origin else ()
                assert all(parent < number for parent in parents), f"trial {number} has the parents {parents}"
                assert content.origin == same.origin, f"{space.name}: another origin of trial {number} after a replay"


def none_is_pure(factory: Factory) -> None:
    """Check that an `ask` that returns None changes nothing, and with nothing running it stays None."""
    for space in _taken(factory):
        often = drive(factory(spec_of(space, seed=2)), space, asks=25, repeat_none=3)
        once = drive(factory(spec_of(space, seed=2)), space, asks=25)
        assert often == once, f"{space.name}: asking again after None changed what followed"


def withdrawn_asks_leave_no_trace(factory: Factory) -> None:
    """Check that a withdrawn ask, and a withdrawn recall, change nothing that follows."""
    for space in _taken(factory):
        whole = drive(factory(spec_of(space, seed=7)), space, asks=25)
        assert drive(_Hesitant(factory(spec_of(space, seed=7))), space, asks=25) == whole, f"{space.name}: other asks"


class _Hesitant:
    """Strategy that withdraws every proposal once before it repeats it."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self.tell, self.withdraw = strategy.tell, strategy.withdraw

    def ask(self, number: int) -> Proposal | None:
        proposal = self._strategy.ask(number)
        if proposal is not None:
            self.withdraw(number)
            if number % 2:
                self.recall(number, proposal)
            else:
                assert self._strategy.ask(number) == proposal, f"trial {number}: another proposal after `withdraw`"
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        self._strategy.recall(number, proposal)
        self.withdraw(number)
        self._strategy.recall(number, proposal)


def nothing_is_proposed_twice(factory: Factory) -> None:
    """Check that no point is measured twice while there are many others, except on other weights or rungs."""
    for space in _taken(factory):
        lines = drive(factory(spec_of(space, seed=5)), space, asks=60)
        points = [
            (content.architecture.point_id, content.weights, content.rung)
            for _, content in lines
            if isinstance(content, Measure)
        ]
        assert len(set(points)) == len(points), f"{space.name}: {len(points) - len(set(points))} points came again"


def small_spaces_are_exhausted(factory: Factory) -> None:
    """Check that all points of a tiny space come before any repeats, and that nothing hangs then."""
    if not _takes(factory, SMALL):
        return
    points = _points(drive(factory(spec_of(SMALL, seed=0)), SMALL, asks=10))
    assert len(set(points[: int(SMALL.size)])) == min(len(points), SMALL.size), "a point came again too early"
    assert len(set(points)) == SMALL.size, f"only {len(set(points))} of {SMALL.size} points were proposed"


def one_point_is_enough(factory: Factory) -> None:
    """Check that a space with nothing left to decide is proposed unchanged."""
    space = SMALL.fixed({"model.a": 2, "model.b": False})
    if not _takes(factory, space):
        return
    points = _points(drive(factory(spec_of(space, seed=0)), space, asks=3))
    assert points and set(points) == {space.default_point().point_id}


def several_objectives_or_an_error(factory: Factory) -> None:
    """Check that two objectives are searched, replay included, or refused by a ConfigError at the start."""
    try:
        strategy = factory(spec_of(MIXED, objectives=2))
    except ConfigError:
        return
    whole = drive(strategy, MIXED, asks=25, objectives=2)
    replayed = factory(spec_of(MIXED, objectives=2))
    replay(replayed, whole[:40])
    assert drive(replayed, MIXED, asks=25, objectives=2, journal=whole[:40]) == whole


def planted_optimum_is_approached(factory: Factory) -> None:
    """Check that the best of 60 trials is better than random search's (means of 5 and of 40 seeds).

    A strategy that trains supernets leaves the recipe at its defaults; so does the random search it is compared with.
    """
    on_supernets = getattr(factory, "evaluator", "") == SHARED_WEIGHTS
    for name in ("flat", "mixed, one recipe" if on_supernets else "mixed"):
        ours = statistics.mean(best_planted(factory, _PLANTED[name], seed, asks=60) for seed in range(5))
        baseline = _random_search(name)
        assert ours > baseline, f"{name}: reached {ours:.3f} on average, random search {baseline:.3f}"


_PLANTED = {"flat": FLAT, "mixed": MIXED, "mixed, one recipe": MIXED.fixed(recipe_defaults(MIXED))}


@cache
def _random_search(name: str) -> float:
    return statistics.mean(best_planted(Random, _PLANTED[name], seed, asks=60) for seed in range(40))


CHECKS: tuple[Callable[[Factory], None], ...] = (
    proposals_are_valid,
    same_seed_same_asks,
    replay_continues,
    failures_and_rejections_are_survived,
    origins_name_earlier_trials,
    none_is_pure,
    withdrawn_asks_leave_no_trace,
    nothing_is_proposed_twice,
    small_spaces_are_exhausted,
    one_point_is_enough,
    several_objectives_or_an_error,
)
ADAPTIVE_CHECKS: tuple[Callable[[Factory], None], ...] = (planted_optimum_is_approached,)


def _takes(factory: Factory, space: SearchSpace) -> bool:
    try:
        factory(spec_of(space, seed=0))
    except ConfigError:
        return False
    return True


def _taken(factory: Factory) -> list[SearchSpace]:
    """Return the spaces that a strategy does not refuse."""
    accepted = [space for space in SPACES if _takes(factory, space)]
    assert accepted, "every space was refused"
    return accepted


def _assert_point(space: SearchSpace, point: Architecture) -> None:
    try:
        made = space.point(point.values)
    except SpaceError as error:
        raise AssertionError(f"proposed what is no point of the space: {error}") from None
    assert made == point, f"proposed {point}, the space itself makes {made} of these values"


def _points(lines: Iterable[Line]) -> list[str]:
    """Return the points whose training started, in order; a training resumed at a higher rung does not count."""
    measures = [content for _, content in lines if isinstance(content, Measure)]
    return [measure.architecture.point_id for measure in measures if measure.rung < 1]
