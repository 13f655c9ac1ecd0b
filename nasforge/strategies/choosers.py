"""The generic parts of every strategy: choosers that make a point, and the rule against proposing one twice.

A chooser is what `SearchSpace.decide` asks. All of these work on any space, conditional ones too: a value is copied
only where it is in the domain, else drawn, so that no point ever needs repair.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Container, Mapping

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import ConfigError, JournalError, SpaceError
from nasforge.core.space import Choice, Choose, Domain, Float, Int, SearchSpace
from nasforge.core.trial import Measure, Proposal
from nasforge.settings.spec import SearchSpec

TRIES = 200
"""Number of seen draws in a row after which the unseen points are listed."""

PATIENCE = 20
"""Number of seen draws in a row after which a neighbour is sought one decision further away."""

ENUMERATED = 8
"""Most values of a range that are all neighbours; of a larger range, steps are sampled."""

_FINEST, _COARSEST = 0.01, 0.3


def check_single(spec: SearchSpec, strategy: str) -> None:
    """Raise ConfigError where a strategy of one objective is given several."""
    if len(spec.objectives) != 1:
        raise ConfigError(
            f"{strategy} takes one objective, got {len(spec.objectives)}; use nsga2 or evolution for several",
            kind="unsupported",
            key="objectives",
        )


class Seen(set[str]):
    """The `point_id` of everything proposed so far; the latest one can be taken back."""

    _new: str | None = None

    def note(self, point: Architecture) -> None:
        """Add a point."""
        self._new = None if point.point_id in self else point.point_id
        self.add(point.point_id)

    def take_back(self) -> None:
        """Leave the latest point out again, if it was new."""
        if self._new is not None:
            self.discard(self._new)
            self._new = None


def generator(seed: int, number: int) -> random.Random:
    """Return the random numbers of ask `number`; they depend on nothing else, so a resumed search repeats them."""
    return random.Random(f"{seed}/{number}")


def following(values: Mapping[str, Value], rng: random.Random) -> Choose:
    """Return a chooser that takes `values` where present and allowed, and draws the rest (a warm start, a parent)."""

    def choose(key: str, domain: Domain) -> Value:
        return values[key] if key in values and _allowed(domain, values[key]) else domain.sample(rng)

    return choose


def mutation(parent: Architecture, keys: Collection[str], rng: random.Random) -> Choose:
    """Return a chooser that follows the parent except at `keys`, where it takes another value (`nearby`)."""
    follow = following(parent.values, rng)

    def choose(key: str, domain: Domain) -> Value:
        value = follow(key, domain)
        return nearby(domain, value, rng) if key in keys else value

    return choose


def crossover(a: Architecture, b: Architecture, rng: random.Random) -> Choose:
    """Return a chooser that takes each decision from one of two parents with equal chance."""

    def choose(key: str, domain: Domain) -> Value:
        parents = [p.values[key] for p in (a, b) if key in p.values and _allowed(domain, p.values[key])]
        return rng.choice(parents) if parents else domain.sample(rng)

    return choose


def mutated(space: SearchSpace, parent: Architecture, rng: random.Random, changes: int = 1) -> Architecture:
    """Return a point that differs from `parent` in `changes` of its decisions (or all), and in those below them."""
    keys = open_keys(space, parent)
    return space.decide(mutation(parent, rng.sample(keys, min(changes, len(keys))), rng))


def open_keys(space: SearchSpace, point: Architecture) -> list[str]:
    """Return the decisions of a point that have other values."""
    return [key for key in point.values if space.domains[key].size > 1]


def nearby(domain: Domain, value: Value, rng: random.Random) -> Value:
    """Draw another value: of a choice of names any other option, of numbers usually a near one.

    A range makes a step in its (logarithmic) scale. The size of the step is itself drawn, log-uniformly from 1 % to
    30 % of the range, so that a search needs no schedule to be coarse at first and fine later. A choice whose options
    are numbers (three or more) makes such a step on the scale of their places in ascending order, at least to the next
    place: from 64 of 32, 64, 128 and 256 mostly to 32 or 128. A domain of one value gives that value.
    """
    if domain.size == 1:
        return value
    if isinstance(domain, Choice):
        if not domain.ordered:
            return rng.choice(domain.others(value))
        ascending = list(domain.ranks)
        rank = nearby(Int(0, len(ascending) - 1), domain.ranks[domain.check(value)], rng)
        return ascending[int(rank)]
    width = _FINEST * (_COARSEST / _FINEST) ** rng.random()
    # Reflected at the ends, so that the ends are not favoured.
    place = abs(position(domain, float(value)) + rng.gauss(0.0, width)) % 2.0
    moved = at(domain, 2.0 - place if place > 1.0 else place)
    if moved != value:
        return moved
    if domain.step is None:
        return domain.sample(rng)
    steps = [float(value) + sign * domain.step for sign in (-1, 1)]
    return domain.check(rng.choice([step for step in steps if _allowed(domain, step)]))


def moves(space: SearchSpace, point: Architecture, rng: random.Random, steps: int = 4) -> list[tuple[str, Value]]:
    """Return every decision of a point with each of its other values.

    Args:
        space: of the point.
        point: where the moves start.
        rng: draws the steps along ranges of more than `ENUMERATED` values.
        steps: number of them per such range.
    """

    def others(domain: Domain, value: Value) -> list[Value]:
        if isinstance(domain, Choice):
            return domain.others(value)
        if domain.size <= ENUMERATED:
            return [other for other in domain.values if other != value]
        return [nearby(domain, value, rng) for _ in range(steps)]

    domains = space.domains
    return [(key, value) for key in open_keys(space, point) for value in others(domains[key], point.values[key])]


def near_first(
    space: SearchSpace, point: Architecture, neighbours: list[tuple[str, Value]], rng: random.Random
) -> list[tuple[str, Value]]:
    """Shuffle the moves of `moves` so that numbers near the point's own tend to come first.

    A number d places away, in ascending order, has weight 1/d in a draw without replacement; names and sampled steps
    have weight 1 (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
    https://doi.org/10.1016/j.ipl.2005.11.003).
    """
    shuffled = list(neighbours)
    rng.shuffle(shuffled)
    distances = [places_apart(space.domains[key], point.values[key], value) for key, value in shuffled]
    if max(distances, default=1) == 1:
        return shuffled
    drawn = [rng.random() ** distance for distance in distances]
    return [shuffled[index] for index in sorted(range(len(shuffled)), key=drawn.__getitem__, reverse=True)]


def places_apart(domain: Domain, a: Value, b: Value) -> int:
    """Return how many places two numbers are apart, in ascending order; 1 for names and for long ranges."""
    if isinstance(domain, Choice):
        return abs(domain.ranks[a] - domain.ranks[b]) if domain.ordered else 1
    if domain.size > ENUMERATED:
        return 1
    return abs(domain.values.index(a) - domain.values.index(b))


def unseen(
    space: SearchSpace, draw: Callable[[int], Architecture], rng: random.Random, seen: Container[str]
) -> Architecture:
    """Return the first draw whose `point_id` is not in `seen`.

    After `TRIES` seen draws in a row a small space (at most `LISTED` points) is listed and an unseen point drawn from
    the list. Where there is none, or the space is larger, a seen point comes again.

    Args:
        space: of the points.
        draw: makes a point; it is told how many draws were seen already, and may go further afield then.
        rng: draws from the list.
        seen: the `point_id` of everything proposed so far.
    """
    for attempt in range(TRIES):
        point = draw(attempt)
        if point.point_id not in seen:
            return point
    left = [other for name, other in space.distinct.items() if name not in seen]
    return rng.choice(left) if left else point


def unseen_sample(space: SearchSpace, rng: random.Random, seen: Container[str]) -> Architecture:
    """Return a random point that is not in `seen`, as `unseen` does."""
    return unseen(space, lambda _: space.sample(rng), rng, seen)


def unseen_neighbour(space: SearchSpace, point: Architecture, rng: random.Random, seen: Container[str]) -> Architecture:
    """Return a point near `point` that is not in `seen`; the more of them are, the further away."""
    return unseen(space, lambda attempt: mutated(space, point, rng, changes=1 + attempt // PATIENCE), rng, seen)


def measured(proposal: Proposal) -> Architecture:
    """Return the point of a recalled proposal of a strategy of Measures. Raises JournalError for another kind."""
    return measure_of(proposal).architecture


def measure_of(proposal: Proposal) -> Measure:
    """Return the recalled proposal of a strategy of Measures.

    Raises:
        JournalError: the journal holds another kind of proposal, so it was written by another strategy.
    """
    if not isinstance(proposal, Measure):
        raise JournalError(
            "the journal has a proposal of a kind that this strategy never makes; "
            "resume it with the strategy that wrote it, or use another --name",
            kind="changed",
            key="strategy",
        )
    return proposal


def _allowed(domain: Domain, value: Value) -> bool:
    try:
        domain.check(value)
    except SpaceError:
        return False
    return True


def position(domain: Int | Float, value: float) -> float:
    """Return the position of a value in its range, 0 to 1."""
    low, high = float(domain.low), float(domain.high)
    if domain.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def at(domain: Int | Float, place: float) -> Value:
    """Return the allowed value nearest to a position in the range, 0 to 1."""
    low, high = float(domain.low), float(domain.high)
    value = low * (high / low) ** place if domain.log else low + (high - low) * place
    if domain.step is not None:
        value = low + domain.step * min(round((value - low) / domain.step), int(domain.size) - 1)
    return domain.check(min(high, max(low, value)))
