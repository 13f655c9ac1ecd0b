"""Points with zero-cost scores: asked for in batches, known of every candidate before anything is trained."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nasforge.core.architecture import Architecture
from nasforge.core.errors import SearchError
from nasforge.core.ladder import proxy_metric
from nasforge.core.metrics import PROXY
from nasforge.strategies.predictor.encoding import Encoding, Rows

_SPREAD = 4.0
_MISSING = -0.75
_COSTS = "cost/"


class Scored:
    """All points whose scores are known, in the order in which they were told.

    A score becomes the normal score of its rank in the first batch, over 4, so that it spans about -0.75..0.75 on
    every scale; a missing one (NaN) is -0.75. Costs that came with the scores are columns like them. The first batch
    settles this for the whole search, so that a replay sees what the search saw.

    Args:
        names: of the proxies, reported as `zc/<name>`.
        encoding: of the points.

    Attributes:
        points: the points.
        columns: how many columns a point has in addition to its encoding.
    """

    def __init__(self, names: Sequence[str], encoding: Encoding) -> None:
        self._names = [proxy_metric(name) for name in names]
        self._encoding = encoding
        self._index: dict[str, int] = {}
        self._reference: dict[str, list[float]] = {}
        self._rows: list[Rows] = []
        self._worth: list[float] = []
        self._violations: list[float] = []
        self.points: list[Architecture] = []
        self.columns = 0

    def __contains__(self, point: Architecture) -> bool:
        return point.point_id in self._index

    def __len__(self) -> int:
        return len(self.points)

    @property
    def rows(self) -> Rows:
        """Encoding and scores of all points."""
        self._rows = [np.concatenate(self._rows)]
        return self._rows[0]

    def row(self, point: Architecture) -> Rows:
        """Return the scores of one point as further columns of its encoding; missing ones if it has none."""
        index = self._index.get(point.point_id)
        start = len(self._encoding.decision)
        return np.full(self.columns, _MISSING) if index is None else np.asarray(self.rows[index, start:])

    def worth(self, points: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the mean of the scores of points."""
        return np.array([self._worth[self._index[point.point_id]] for point in points])

    def open(
        self, seen: Collection[str], first: Sequence[Architecture], rng: random.Random, most: int
    ) -> tuple[list[Architecture], Rows]:
        """Return points whose `point_id` is not in `seen` and whose costs violate no constraint.

        Args:
            seen: those of points proposed before.
            first: points that are wanted if they are scored.
            rng: draws the others.
            most: others at most.
        """
        free = {i for i, p in enumerate(self.points) if p.point_id not in seen and not self._violations[i] > 0}
        preferred = [index for p in first if (index := self._index.get(p.point_id, -1)) in free]
        others = sorted(free.difference(preferred))
        kept = preferred + rng.sample(others, min(most, len(others)))
        return [self.points[index] for index in kept], self.rows[kept]

    def add(self, points: Sequence[Architecture], metrics: Sequence[Mapping[str, float]]) -> None:
        """Add a batch and its result.

        Raises:
            SearchError: a score was asked for that the first rung of the ladder does not give.
        """
        missing = [name for name in self._names if name not in metrics[0]]
        if missing:
            named = ", ".join(name.removeprefix(PROXY) for name in self._names)
            raise SearchError(
                f"strategy predictor: zero_cost names {missing[0].removeprefix(PROXY)}, but the ladder's first rung "
                f"reports no {missing[0]}; let it begin with a rung of these proxies: ladder: [{{proxies: [{named}]}}, "
                "{epochs: N}]",
                kind="missing",
                key="strategy.zero_cost",
            )
        if not self._reference:
            costs = sorted(key for key in metrics[0] if key.startswith(_COSTS))
            for key in (*self._names, *costs):
                known = sorted(row[key] for row in metrics if not math.isnan(row.get(key, math.nan)))
                if key in self._names or len(known) == len(metrics):
                    self._reference[key] = known
            self.columns = len(self._reference)
        new = [index for index, point in enumerate(points) if point not in self]
        scores = np.array([[self._place(key, metrics[index]) for key in self._reference] for index in new])
        scores = scores.reshape(len(new), self.columns)
        self._rows.append(np.hstack([self._encoding([points[index] for index in new]), scores]))
        for index, row in zip(new, scores, strict=True):
            self._index[points[index].point_id] = len(self.points)
            self.points.append(points[index])
            self._worth.append(float(row[: len(self._names)].mean()))
            self._violations.append(metrics[index].get("constraint/violation", 0.0))

    def _place(self, key: str, metrics: Mapping[str, float]) -> float:
        """Return the rank of a number among those of the first batch."""
        value, known = metrics.get(key, math.nan), self._reference[key]
        if math.isnan(value) or not known:
            return _MISSING
        rank = (bisect_left(known, value) + bisect_right(known, value)) / 2
        return max(_MISSING, min(-_MISSING, NormalDist().inv_cdf((rank + 0.5) / (len(known) + 1)) / _SPREAD))
