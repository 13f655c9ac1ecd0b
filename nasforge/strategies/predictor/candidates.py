"""Candidates of a strategy that predicts: points from everywhere, and all around the best ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nasforge.core.architecture import Architecture
from nasforge.core.space import Choice, SearchSpace
from nasforge.strategies.choosers import ENUMERATED, crossover, following, moves, mutated
from nasforge.strategies.predictor.encoding import Encoding, Rows

_BLOCK, _BLOCKS = 100, 10
_EVERY, _NEAR_EVERY = 4, 8
_AROUND = 5
_NEAR, _NEAR_BLOCKS = 100, 4
_CROSSED = 16


class Candidates(NamedTuple):
    """Points and their rows.

    Attributes:
        points: each of them once, isomorphic ones counting as one.
        rows: their encoding, points x columns.
    """

    points: list[Architecture]
    rows: Rows


class Pool:
    """The candidates of every ask, as a function of the seed, the number of the ask and the best trials alone.

    They are 1,000 random points, the neighbours of the five best trials (100 of each where there are more), and 16
    children of the best. Every fourth ask a tenth of the random points are new, every eighth a quarter of neighbours
    that are too many.

    Args:
        space: what to search.
        encoding: of its points.
        seed: of the search.
    """

    def __init__(self, space: SearchSpace, encoding: Encoding, seed: int) -> None:
        self._space = space
        self._encoding = encoding
        self._seed = seed
        # Where all neighbours fit and are always the same, they are made once.
        self._steady = len(space.decisions) == len(space.domains) and all(
            isinstance(domain, Choice) or domain.size <= ENUMERATED for domain in space.domains.values()
        )
        self._steady &= sum(domain.size - 1 for domain in space.domains.values()) <= _NEAR
        # What was made is kept while it is needed; a replayed search makes the same again.
        self._made: dict[tuple[int, int], Candidates] = {}

    def at(
        self, number: int, best: Sequence[tuple[int, Architecture]], rng: random.Random, *, near: bool = False
    ) -> Candidates:
        """Return the candidates of an ask, seen ones among them.

        Args:
            number: of the ask.
            best: number and point of the best trials, the best first.
            rng: of the ask.
            near: only neighbours and children of the best.
        """
        now, later = number // _EVERY, number // _NEAR_EVERY
        centres: dict[tuple[int, int], Architecture | None] = {(-1, now + block): None for block in range(_BLOCKS)}
        for trial, point in best[:_AROUND]:
            blocks = (0,) if self._steady else range(later, later + _NEAR_BLOCKS)
            centres.update({(trial, block): point for block in blocks})
        self._made = {key: self._made.get(key) or self._make(key, point) for key, point in centres.items()}
        parts = [made for (trial, _), made in self._made.items() if trial >= 0 or not near]
        return _once([*parts, self._children([point for _, point in best], rng)])

    def _make(self, key: tuple[int, int], centre: Architecture | None) -> Candidates:
        rng = random.Random(f"{self._seed}/pool/{key[0]}/{key[1]}")
        if centre is None:
            return self._encoded([self._space.sample(rng) for _ in range(_BLOCK)])
        neighbours = moves(self._space, centre, rng)
        if not self._steady:
            neighbours = rng.sample(neighbours, min(_NEAR // _NEAR_BLOCKS, len(neighbours)))
        return self._encoded([self._space.decide(following({**centre.values, k: v}, rng)) for k, v in neighbours])

    def _children(self, best: list[Architecture], rng: random.Random) -> Candidates:
        points = []
        for _ in range(_CROSSED if best else 0):
            a, b = rng.choice(best), rng.choice(best)
            points.append(
                mutated(self._space, a, rng, changes=2)
                if a.point_id == b.point_id
                else self._space.decide(crossover(a, b, rng))
            )
        return self._encoded(points)

    def _encoded(self, points: list[Architecture]) -> Candidates:
        return Candidates(points, self._encoding(points))


def _once(parts: Sequence[Candidates]) -> Candidates:
    points = [point for part in parts for point in part.points]
    first = {point.point_id: index for index, point in reversed(list(enumerate(points)))}
    kept = sorted(first.values())
    rows = np.concatenate([part.rows for part in parts])
    return Candidates([points[index] for index in kept], rows[kept])
