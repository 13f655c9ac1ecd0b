"""Conformance suite for strategies: run it on your own.

    import pytest
    from nasforge.testing.strategies import ADAPTIVE_CHECKS, CHECKS

    @pytest.mark.parametrize("check", CHECKS + ADAPTIVE_CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check):
        check(MyStrategy)

A check takes what the registry takes, a factory called as `factory(space, seed=..., objectives=...)`, and raises
AssertionError with the reason. `ADAPTIVE_CHECKS` are for strategies that learn. A strategy may refuse a space by a
ConfigError when it is made, but not all of `SPACES`.
"""

# ruff: noqa: S101 - a check says what is wrong by AssertionError, as tests do

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Iterable
from functools import cache
from typing import TypeAlias

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, SpaceError
from nasforge.core.protocols import Strategy
from nasforge.core.space import Choice, Decision, Domain, Float, Int, SearchSpace
from nasforge.core.trial import CHECKPOINT, Artifact, Measure, Proposal, Result, TrainShared, proposal_from_json
from nasforge.strategies.differentiable import recipe_defaults
from nasforge.strategies.random import Random

Factory: TypeAlias = Callable[..., Strategy]
Line: TypeAlias = tuple[int, Proposal | Result]
"""What a journal says: of trial `number`, that it was asked or what was told."""

FLAT = SearchSpace("flat", tuple(Decision(f"model.layer{i}", Choice(("a", "b", "c", "d", "e"))) for i in range(6)))
NESTED = SearchSpace(
    "nested",
    tuple(
        Decision(
            f"model.layer{i}",
            Choice(
                ("identity", "plain", "inverted"),
                (
                    (),
                    (Decision(f"model.layer{i}.plain.kernel", Choice((3, 5))),),
                    (
                        Decision(f"model.layer{i}.inverted.expansion", Choice((2, 4, 6))),
                        Decision(
                            f"model.layer{i}.inverted.squeeze",
                            Choice((False, True), ((), (Decision(f"model.layer{i}.inverted.squeeze.to", Int(1, 4)),))),
                        ),
                    ),
                ),
            ),
        )
        for i in range(3)
    ),
)
MIXED = SearchSpace(
    "mixed",
    (
        *NESTED.decisions[:1],
        Decision("model.activation", Choice(("relu", "silu"))),
        Decision("model.width", Int(8, 128, log=True)),
        Decision("model.only", Choice(("this",))),
        Decision("train.learning_rate", Float(1e-4, 1.0, log=True)),
        Decision("train.momentum", Float(0.0, 0.99)),
        Decision("train.dropout", Float(0.0, 0.5, step=0.1)),
        Decision("train.epochs_warmup", Int(0, 9, step=3)),
    ),
)
SMALL = SearchSpace("small", (Decision("model.a", Choice((1, 2, 3))), Decision("model.b", Choice((True, False)))))
SPACES = (FLAT, NESTED, MIXED)


def proposals_are_valid(factory: Factory) -> None:
    """Every proposal is a point of the space, exactly as the space itself would make it."""
    for space in _taken(factory):
        for _, content in drive(factory(space, seed=0, objectives=1), space, asks=30):
            if isinstance(content, Measure):
                _assert_point(space, content.architecture)
            if isinstance(content, TrainShared):
                assert set(content.space.domains) <= set(space.domains)


def same_seed_same_asks(factory: Factory) -> None:
    """Two strategies made alike and told alike ask alike; with another seed they do not."""
    for space in _taken(factory):
        first, second, other = (drive(factory(space, seed=seed, objectives=1), space, asks=25) for seed in (3, 3, 4))
        assert first == second, f"{space.name}: the same seed gave other asks"
        assert first != other, f"{space.name}: the seed changes nothing"


def replay_continues(factory: Factory) -> None:
    """After a replay of any part of the journal the search goes on as if nothing had happened.

    Three trials are out at a time and come back out of order; some fail, some are rejected, some pruned.
    """
    for space in _taken(factory):
        whole = drive(factory(space, seed=1, objectives=1), space, asks=30)
        for cut in range(0, len(whole), 5):
            replayed = factory(space, seed=1, objectives=1)
            replay(replayed, whole[:cut])
            asks = min(30, 3 + sum(not isinstance(content, Result) for _, content in whole[:cut]))
            until = next((i for i, line in enumerate(whole) if line[0] == asks - 1), len(whole))
            again = drive(replayed, space, asks=asks, journal=whole[:cut])
            assert again[: until + 1] == whole[: until + 1], f"{space.name}: after {cut} lines the next asks differ"


def failures_and_rejections_are_survived(factory: Factory) -> None:
    """A strategy that is told nothing but failures, rejections or early prunings goes on proposing valid points."""
    endings = (
        Result.failed("diverged", "the loss became NaN"),
        Result("rejected", metrics={"cost/flops": 2e9, "constraint/violation": 1.5}),
        Result("pruned", steps_done=1),
        Result("finished", values=(math.nan,), steps_done=3),
    )
    space = NESTED if NESTED in _taken(factory) else _taken(factory)[0]
    for ending in endings:
        strategy = factory(space, seed=0, objectives=1)
        for number in range(15):
            proposal = strategy.ask(number)
            if proposal is None:
                break
            if isinstance(proposal, Measure):
                _assert_point(space, proposal.architecture)
            strategy.tell(number, ending)


def none_is_pure(factory: Factory) -> None:
    """`ask` may say None, which changes nothing, and with nothing running it stays None."""
    for space in _taken(factory):
        often = drive(factory(space, seed=2, objectives=1), space, asks=25, repeat_none=3)
        once = drive(factory(space, seed=2, objectives=1), space, asks=25)
        assert often == once, f"{space.name}: asking again after None changed what followed"


def nothing_is_proposed_twice(factory: Factory) -> None:
    """No point is measured twice while there are plenty of others, on other weights or at another rung perhaps."""
    for space in _taken(factory):
        lines = drive(factory(space, seed=5, objectives=1), space, asks=60)
        points = [
            (content.architecture.point_id, content.weights, content.rung)
            for _, content in lines
            if isinstance(content, Measure)
        ]
        assert len(set(points)) == len(points), f"{space.name}: {len(points) - len(set(points))} points came again"


def small_spaces_are_exhausted(factory: Factory) -> None:
    """All points of a tiny space come before any of them comes again, and then nothing hangs."""
    if not _takes(factory, SMALL):
        return
    points = _points(drive(factory(SMALL, seed=0, objectives=1), SMALL, asks=10))
    assert len(set(points[: int(SMALL.size)])) == min(len(points), SMALL.size), "a point came again too early"
    assert len(set(points)) == SMALL.size, f"only {len(set(points))} of {SMALL.size} points were proposed"


def one_point_is_enough(factory: Factory) -> None:
    """A space with nothing left to decide is proposed as it is."""
    space = SMALL.fixed({"model.a": 2, "model.b": False})
    if not _takes(factory, space):
        return
    points = _points(drive(factory(space, seed=0, objectives=1), space, asks=3))
    assert points and set(points) == {space.default_point().point_id}


def several_objectives_or_an_error(factory: Factory) -> None:
    """Two objectives are either searched, replay included, or refused by a ConfigError when the strategy is made."""
    try:
        strategy = factory(MIXED, seed=0, objectives=2)
    except ConfigError:
        return
    whole = drive(strategy, MIXED, asks=25, objectives=2)
    replayed = factory(MIXED, seed=0, objectives=2)
    replay(replayed, whole[:40])
    assert drive(replayed, MIXED, asks=25, objectives=2, journal=whole[:40]) == whole


def planted_optimum_is_approached(factory: Factory) -> None:
    """On a planted optimum the best of 60 trials is better than random search's (means of 5 and of 40 seeds).

    A strategy that trains supernets leaves the recipe at its defaults; so does random search beside it.
    """
    on_supernets = getattr(factory, "evaluator", "") == "shared_weights"
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
    none_is_pure,
    nothing_is_proposed_twice,
    small_spaces_are_exhausted,
    one_point_is_enough,
    several_objectives_or_an_error,
)
ADAPTIVE_CHECKS: tuple[Callable[[Factory], None], ...] = (planted_optimum_is_approached,)


def drive(
    strategy: Strategy,
    space: SearchSpace,
    *,
    asks: int,
    objectives: int = 1,
    workers: int = 3,
    journal: Iterable[Line] = (),
    repeat_none: int = 1,
) -> list[Line]:
    """A search in miniature: `workers` trials out at a time, told out of order, every outcome scripted by number.

    Args:
        strategy: made anew, or having replayed `journal`.
        space: what it searches.
        asks: proposals in all.
        objectives: values per result.
        workers: trials out at a time.
        journal: what happened before.
        repeat_none: how often to ask again when the answer is None.

    Returns:
        The whole journal.
    """
    lines = list(journal)
    asked = {number: content for number, content in lines if not isinstance(content, Result)}
    told = {number for number, content in lines if isinstance(content, Result)}
    number = len(asked)
    while True:
        running = sorted(set(asked) - told)
        proposal = None
        if len(running) < workers and number < asks:
            for _ in range(repeat_none):
                proposal = strategy.ask(number)
                if proposal is not None:
                    break
        if proposal is not None:
            asked[number] = proposal
            lines.append((number, proposal))
            number += 1
        elif running:
            # Drawn from the journal's length alone, so that a continued search is told in the same order.
            back = random.Random(len(lines)).choice(running)
            result = outcome(space, back, asked[back], objectives)
            strategy.tell(back, result)
            told.add(back)
            lines.append((back, result))
        else:
            return lines


def replay(strategy: Strategy, lines: Iterable[Line]) -> None:
    """Recalls and tells what a journal says, as parsed back from JSON."""
    for number, content in lines:
        text = json.dumps(content.to_json())
        if isinstance(content, Result):
            strategy.tell(number, Result.from_json(json.loads(text)))
        else:
            strategy.recall(number, proposal_from_json(json.loads(text)))


def outcome(space: SearchSpace, number: int, proposal: Proposal, objectives: int = 1) -> Result:
    """The scripted result of a trial: of every eleven one fails, two are rejected, one is pruned."""
    if isinstance(proposal, TrainShared):
        optimum = space.sample(random.Random("planted")).values
        rng = random.Random(number)
        alphas = {  # a supernet that has learnt which options are best, not how good the others are
            key: tuple(
                (_alike(domain, optimum[key], value) if key in optimum else 0.0) + rng.random() / 4
                for value in domain.values
            )
            for key, domain in proposal.space.domains.items()
            if len(domain.values) > 1
        }
        return Result(
            "finished",
            steps_done=proposal.epochs,
            alphas=alphas,
            artifacts={"weights": Artifact(f"artifacts/{number}/attempt-1/weights.safetensors", "0" * 64, 1)},
        )
    close = closeness(space, proposal.architecture)
    values = (close, 1 - close**2)[:objectives]
    match number % 11:
        case 3:
            return Result.failed("diverged", "the loss became NaN")
        case 5 | 8:
            return Result("rejected", metrics={"cost/flops": 2e6, "constraint/violation": 1 - close})
        case 9:
            return Result("pruned", values=values, steps_done=1)
        case _:
            # A rung below the last one leaves a checkpoint to go on from.
            file = Artifact(f"artifacts/{number}/attempt-1/{CHECKPOINT}.pt", "0" * 64, 1)
            artifacts = {CHECKPOINT: file} if proposal.rung >= 0 else {}
            return Result("finished", values=values, steps_done=3, artifacts=artifacts)


def best_planted(factory: Factory, space: SearchSpace, seed: int, asks: int) -> float:
    """The best closeness to the planted optimum that a search of so many trials reaches."""
    strategy = factory(space, seed=seed, objectives=1)
    best = -math.inf
    for number in range(asks):
        proposal = strategy.ask(number)
        if proposal is None:
            break
        if isinstance(proposal, TrainShared):
            strategy.tell(number, outcome(space, number, proposal))
            continue
        close = closeness(space, proposal.architecture)
        best = max(best, close)
        strategy.tell(number, Result("finished", values=(close,), steps_done=3))
    return best


def closeness(space: SearchSpace, point: Architecture) -> float:
    """How near a point is to the planted optimum of its space, 1 at the optimum itself: the mean over its decisions."""
    optimum = space.sample(random.Random("planted")).values
    alike = [
        _alike(space.domains[key], value, point.values[key]) if key in point.values else 0.0
        for key, value in optimum.items()
    ]
    return sum(alike) / len(alike)


def _alike(domain: Domain, a: object, b: object) -> float:
    """1 for equal values; for numbers less, the further they are apart in their (logarithmic) range."""
    if (
        isinstance(domain, Choice)
        or domain.size == 1
        or not isinstance(a, (int, float))
        or not isinstance(b, (int, float))
    ):
        return float(a == b)
    scale: Callable[[float], float] = math.log if domain.log else float
    return 1 - abs(scale(a) - scale(b)) / (scale(domain.high) - scale(domain.low))


def _takes(factory: Factory, space: SearchSpace) -> bool:
    try:
        factory(space, seed=0, objectives=1)
    except ConfigError:
        return False
    return True


def _taken(factory: Factory) -> list[SearchSpace]:
    """The spaces that a strategy does not refuse."""
    found = [space for space in SPACES if _takes(factory, space)]
    assert found, "every space was refused"
    return found


def _assert_point(space: SearchSpace, point: Architecture) -> None:
    try:
        made = space.point(point.values)
    except SpaceError as error:
        raise AssertionError(f"proposed what is no point of the space: {error}") from None
    assert made == point, f"proposed {point}, the space itself makes {made} of these values"


def _points(lines: Iterable[Line]) -> list[str]:
    """What was begun, in order; a training that goes on at a higher rung is none."""
    measures = [content for _, content in lines if isinstance(content, Measure)]
    return [measure.architecture.point_id for measure in measures if measure.rung < 1]
