"""The points of a search space that are the same network: what one of them is worth, its twins are worth too."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from nasforge.core.architecture import MODEL, Architecture
from nasforge.core.space import LISTED, SearchSpace
from nasforge.strategies.predictor.encoding import Encoding, Rows

_Key: TypeAlias = tuple[Any, ...]


class Twins:
    """Rows of isomorphic points, of which a predictor learns what it would otherwise have to find out.

    Args:
        space: with a canonical form, and of at most `LISTED` points; any other has no twins here.
        encoding: of its points.
        seed: of the search.
    """

    def __init__(self, space: SearchSpace, encoding: Encoding, seed: int) -> None:
        self._space = space if space.canonical and space.size <= LISTED else None
        self._encoding = encoding
        self._seed = seed

    def of(self, number: int, point: Architecture, most: int) -> Rows:
        """Draw rows of up to `most` other points that are isomorphic to that of trial `number`."""
        if self._space is None:
            return self._encoding([])
        rows, classes = _listed(self._space)
        row = self._encoding([point])[0]
        others = [index for index in classes[_key(point)] if not np.array_equal(rows[index], row)]
        chosen = random.Random(f"{self._seed}/twins/{number}").sample(others, min(most, len(others)))
        return rows[chosen]


@lru_cache(maxsize=2)
def _listed(space: SearchSpace) -> tuple[Rows, Mapping[_Key, list[int]]]:
    """Return the rows of all points of a space, and which of them are isomorphic."""
    points = list(space.points())
    classes: dict[_Key, list[int]] = {}
    for index, point in enumerate(points):
        classes.setdefault(_key(point), []).append(index)
    return Encoding(space)(points), classes


def _key(point: Architecture) -> _Key:
    """Return a key that isomorphic points share, cheaper than `point_id`."""
    return point.canonical, *(item for item in point.values.items() if not item[0].startswith(MODEL))
