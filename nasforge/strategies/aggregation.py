"""Several scores of the same networks, assembled to one."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence


def log_rank_sums(scores: Mapping[str, Sequence[float]]) -> list[float]:
    """Return one number per network, more is better: the sum over scores of log(rank / number of networks).

    Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search",
    https://arxiv.org/abs/2403.19232, equation 9. Ranks are ascending, so the best network of a score adds 0, and a rank
    near the end costs much: a network must be good by all scores. Equal scores have their mean rank. Only ranks count,
    so a score may be on any scale. The numbers hold within this pool of networks alone.

    Args:
        scores: name -> one number per network, more is better; NaN and infinities rank last.

    Example:
        >>> sums = log_rank_sums({"a": [1, 2, 3, 4], "b": [0.4, 0.3, 0.2, 0.1]})
        >>> [round(value, 2) for value in sums]
        [-1.39, -0.98, -0.98, -1.39]
    """
    columns = [[value if math.isfinite(value) else -math.inf for value in column] for column in scores.values()]
    totals = [0.0] * (len(columns[0]) if columns else 0)
    for column in columns:
        order = sorted(column)
        for index, value in enumerate(column):
            rank = (bisect_left(order, value) + 1 + bisect_right(order, value)) / 2
            totals[index] += math.log(rank / len(column))
    return totals
