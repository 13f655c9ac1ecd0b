"""From the alphas of a supernet to architectures, in order of decreasing score."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import SpaceError
from nasforge.core.space import Decision, SearchSpace, taking

Alphas: TypeAlias = Mapping[str, Sequence[float]]
"""Decision key -> one number per option, in the order of the domain's options."""

_Scored: TypeAlias = tuple[float, dict[str, Value]]


def derive(space: SearchSpace, alphas: Alphas) -> Iterator[Architecture]:
    """The architectures that alphas stand for, best first: by the space's own `derive`, else `by_odds`."""
    return space.function("derive")(space, alphas) if space.derive else by_odds(space, alphas)


def without(space: SearchSpace, alphas: Alphas, option: Value) -> Alphas:
    """The alphas with `option` as the last choice wherever there is another.

    The alpha of an operation that computes nothing says nothing of its worth: it scales the sum of the others, and the
    normalisation that follows undoes that ("DARTS", section 2.4, https://arxiv.org/abs/1806.09055).
    """

    def lowered(key: str, row: Sequence[float]) -> Sequence[float]:
        values = space.domains[key].values if key in space.domains else ()
        if option not in values or len(values) == 1:
            return row
        return [-math.inf if value == option else score for value, score in zip(values, row, strict=True)]

    return {key: lowered(key, row) for key, row in alphas.items()}


def by_odds(space: SearchSpace, alphas: Alphas) -> Iterator[Architecture]:
    """All points of the space; first the one that takes the largest alpha of every decision, from the top down.

    The score of a point is the sum, over its active decisions, of the log odds of its option against the best one,
    alpha - max(alpha). It is not the point's probability: that would count every decision that an option opens against
    the option. A decision without alphas takes its default. Points are made one by one as they are asked for, by
    merging the orders of the decisions ("Better k-best Parsing", Huang & Chiang 2005,
    https://aclanthology.org/W05-1506).

    Raises:
        SpaceError: alphas of another number of options.
    """
    for _, values in _product([_values(decision, alphas, space) for decision in space.decisions]):
        yield space.decide(taking(values))


class _Lazy:
    """An iterator's items by index, made when they are asked for."""

    def __init__(self, items: Iterator[_Scored]) -> None:
        self._items = items
        self._made: list[_Scored] = []

    def get(self, index: int) -> _Scored | None:
        while len(self._made) <= index:
            item = next(self._items, None)
            if item is None:
                return None
            self._made.append(item)
        return self._made[index]


def _values(decision: Decision, alphas: Alphas, space: SearchSpace) -> Iterator[_Scored]:
    """Assignments of a decision and of all below it, best first."""
    domain = decision.domain
    scores = alphas.get(decision.key)
    if scores is None or domain.size == 1:
        options, odds = domain.values if domain.size == 1 else (space.default_of(decision.key),), [0.0]
    else:
        options, odds = domain.values, [score - max(scores) for score in scores]
        if len(options) != len(odds):
            raise SpaceError(f"decision '{decision.key}' has {len(options)} options, and {len(odds)} alphas")

    def below(option: Value, odd: float) -> Iterator[_Scored]:
        for score, values in _product([_values(d, alphas, space) for d in domain.branch(option)]):
            yield odd + score, {decision.key: option, **values}

    return heapq.merge(*(below(o, odd) for o, odd in zip(options, odds, strict=True)), key=lambda item: -item[0])


def _product(parts: Sequence[Iterator[_Scored]]) -> Iterator[_Scored]:
    """All combinations of independent parts, by decreasing sum of scores."""
    if not parts:
        yield 0.0, {}
        return
    if len(parts) == 1:
        yield from parts[0]
        return
    middle = len(parts) // 2
    left, right = _Lazy(_product(parts[:middle])), _Lazy(_product(parts[middle:]))
    seen = {(0, 0)}
    frontier: list[tuple[float, int, int]] = []

    def push(i: int, j: int) -> None:
        a, b = left.get(i), right.get(j)
        if a is not None and b is not None:
            heapq.heappush(frontier, (-(a[0] + b[0]), i, j))

    push(0, 0)
    while frontier:
        negative, i, j = heapq.heappop(frontier)
        a, b = left.get(i), right.get(j)
        assert a is not None and b is not None  # noqa: S101 - they were when pushed, for the type checker
        yield -negative, {**a[1], **b[1]}
        for after in ((i + 1, j), (i, j + 1)):
            if after not in seen:
                seen.add(after)
                push(*after)
