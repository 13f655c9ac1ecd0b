"""Rewards of trials for a policy that learns, from ranks, so that one scale serves every metric."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import Any

from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.goals import Constraint
from nasforge.core.trial import Result
from nasforge.strategies.ranking import merit

_WORST = -1.0
"""The bound that the worst of many measured trials comes near to; failures get it."""

_REJECTION = 2.0
_SMALLEST_RATIO = 1e-9
_STEEPEST = 600.0


class Rewards:
    """Rewards of results in the order of `tell`, independent of the metric's scale.

    A measured trial that beats the share q of all measured so far is rewarded by the exponential score -log(1 - q) - 1
    (Savage, "Contributions to the Theory of Rank Order Statistics", https://zbmath.org/?q=an:0073.13904): its mean
    is 0, its bulk is near -1, and what is better than everything before stands out. Accuracies in 0..1 or in percent,
    losses and outliers give the same rewards as long as they give the same order. Ranks are those of `ranking.merit`:
    pruned trials lie below finished ones, and among them the one stopped later is better.

    A rejection's reward is its violation of the hard constraints: -1 - 2 (1 - q), where q is the share of rejections
    that violate more; so every rejection lies below every measured trial. Failures are worth -1.

    Soft targets shape the value before it is ranked, see `shaped`.

    Args:
        targets: soft limits on costs.
        within: MnasNet's alpha, the exponent of cost / bound where the target is met.
        beyond: MnasNet's beta, the exponent where it is missed.
    """

    def __init__(self, targets: Sequence[Constraint] = (), *, within: float = 0.0, beyond: float = -1.0) -> None:
        for name, exponent in (("within", within), ("beyond", beyond)):
            if not -math.inf < exponent <= 0:
                raise ConfigError(
                    f"the exponent '{name}' of the soft targets must be at most 0, so that no cost is rewarded, "
                    f"got {exponent}",
                    kind="range",
                    key=name,
                )
        self._targets = tuple(targets)
        self._within = within
        self._beyond = beyond
        self._measured: list[tuple[Any, ...]] = []  # merits, ascending
        self._violations: list[tuple[Any, ...]] = []  # ascending

    def __call__(self, result: Result) -> float:
        """Return the reward of the next result.

        Raises:
            SearchError: soft targets are set, and the result has no such cost.
        """
        if result.status == "rejected":
            return _WORST - _REJECTION * _share(self._violations, (result.metrics["constraint/violation"],))
        worth = merit(result)
        if worth is None:
            return _WORST
        if self._targets:
            value = shaped(worth.values[0], result.metrics, self._targets, self._within, self._beyond)
            worth = worth._replace(values=(value,))
        return -math.log(1 - _share(self._measured, worth)) - 1


def shaped(
    value: float, costs: Mapping[str, float], targets: Sequence[Constraint], within: float, beyond: float
) -> float:
    """Return MnasNet's reward: value * product over the targets of (cost / bound) ** w, w = within or beyond.

    Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile" (https://arxiv.org/abs/1807.11626),
    equations 2 and 3. A negative value, such as a loss turned to be maximised, is divided by the product instead:
    missing a target by 10 % then makes the loss 10 % larger (`beyond` = -1), as it makes an accuracy 10 % smaller.

    Args:
        value: the objective, to maximise.
        costs: metric -> cost.
        targets: soft limits.
        within: exponent for costs within the bound.
        beyond: exponent for costs beyond it.

    Raises:
        SearchError: a cost is missing.
    """
    logarithm = 0.0  # of the product, which steep exponents would make too large or too small for a float
    for target in targets:
        if target.metric not in costs:
            raise SearchError(
                f"the soft target {target} needs the metric '{target.metric}', which a trial's result does not have; "
                "let the evaluator report it, or leave the target out",
                kind="missing",
                key=target.metric,
            )
        ratio = max(_SMALLEST_RATIO, costs[target.metric] / target.bound)
        logarithm += (within if ratio <= 1 else beyond) * math.log(ratio)
    product = math.exp(max(-_STEEPEST, min(_STEEPEST, logarithm)))
    return value * product if value > 0 else value / product


def _share(seen: list[tuple[Any, ...]], new: tuple[Any, ...]) -> float:
    """Return the share of all seen that `new` exceeds, itself included, equals counting half; then add `new`."""
    insort(seen, new)
    return (bisect_left(seen, new) + bisect_right(seen, new)) / 2 / len(seen)
