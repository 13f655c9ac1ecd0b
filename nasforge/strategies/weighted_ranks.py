"""Several objectives as one value: the worst weighted rank, by random weights (Knowles, "ParEGO").

https://doi.org/10.1109/TEVC.2005.851274. Ranks take the place of the paper's normalised costs, so no scale matters.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

_SUM = 0.05
"""Weight of the sum, which tells points with the same worst objective apart, as in the paper's equation 2."""


def ascending_ranks(values: Sequence[Any]) -> list[float]:
    """Return ascending ranks, 0.5 for the lowest; equal values have their mean rank."""
    order = sorted(values)
    return [(bisect_left(order, value) + bisect_right(order, value)) / 2 for value in values]


def drawn_weights(seed: int, objectives: int) -> tuple[float, ...]:
    """Draw weights of objectives, uniformly from those that add up to 1."""
    rng = random.Random(seed)
    drawn = [rng.expovariate(1.0) for _ in range(objectives)]
    return tuple(weight / sum(drawn) for weight in drawn)


def worst_weighted(places: Sequence[Any], points: int, weights: Sequence[float]) -> Any:
    """Return a value for each point, higher for better.

    Args:
        places: for each objective the ascending ranks of the points, an array of N numbers; 0.5 is the lowest rank.
        points: N.
        weights: of the objectives, from `drawn_weights`.
    """
    short = [weight * (1 - place / points) for place, weight in zip(places, weights, strict=True)]
    return -np.maximum.reduce(short) - _SUM * sum(short)
