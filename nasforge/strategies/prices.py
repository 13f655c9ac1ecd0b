"""Derivation below hard limits: what every option costs, learnt from the networks that were checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from nasforge.core.alphas import Alphas, derive
from nasforge.core.architecture import Architecture
from nasforge.core.domains import Choice
from nasforge.core.goals import Constraint
from nasforge.core.space import SearchSpace

_RIDGE = 0.1
_STRENGTHS = [0.1 * 1.25**step for step in range(40)]

_Option = tuple[str, int]
"""A decision's key and the index of the option taken."""


class Prices:
    """Lagrangian relaxation of hard limits: alphas are lowered by what their options cost.

    A ridge regression on the options of a network predicts the logarithm of cost / bound, for the limit that it
    exceeds most. The multiplier is the least with which the network derived should be allowed. An option that no
    checked network had is expected to save its decision's share of the least excess, so that it is tried.

    Everett, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of Resources" (1963,
    https://doi.org/10.1287/opre.11.3.399).

    Args:
        space: of the networks.
        limits: hard limits on costs.
    """

    def __init__(self, space: SearchSpace, limits: Sequence[Constraint]) -> None:
        self._space, self._limits = space, tuple(limits)
        self._checked: list[tuple[Architecture, float]] = []

    def note(self, point: Architecture, costs: Mapping[str, float]) -> None:
        """Learn from a network's costs; one of which a cost is missing teaches nothing."""
        ratios = [costs.get(limit.metric, 0.0) / limit.bound for limit in self._limits]
        if ratios and min(ratios) > 0:
            self._checked.append((point, math.log(max(ratios))))

    def lowered(self, alphas: Alphas) -> Alphas:
        """Return the alphas minus the prices; before the first network was checked, the alphas.

        Args:
            alphas: decision key -> one number per option; minus infinity stays.
        """
        if not self._checked:
            return alphas
        prices, base = self._fit(alphas)
        gaps = [max(row) - score for row in alphas.values() for score in row if score > -math.inf]
        mean = sum(gaps) / len(gaps) or 1.0
        priced = alphas
        for strength in _STRENGTHS:
            priced = {
                key: [score - strength * mean * prices[key, place] for place, score in enumerate(row)]
                for key, row in alphas.items()
            }
            derived = next(derive(self._space, priced))
            if base + sum(prices[option] for option in self._options(derived, alphas)) <= 0:
                break
        return priced

    def _options(self, point: Architecture, alphas: Alphas) -> list[_Option]:
        """Return the options that a point takes of decisions with alphas."""
        options = []
        for key, value in point.values.items():
            if key in alphas:
                domain = self._space.domains[key]
                place = domain.place(value) if isinstance(domain, Choice) else domain.values.index(value)
                options.append((key, place))
        return options

    def _fit(self, alphas: Alphas) -> tuple[dict[_Option, float], float]:
        """Return what every option adds to log(cost / bound), and the sum without any."""
        import numpy as np  # only a search below limits needs it

        logs = np.array([log for _, log in self._checked])
        taken = [self._options(point, alphas) for point, _ in self._checked]
        seen = {option: column for column, option in enumerate(sorted({o for row in taken for o in row}))}
        rows = np.zeros((len(logs), len(seen) + 1))
        rows[:, -1] = 1.0  # what all networks cost alike
        for row, options in zip(rows, taken, strict=True):
            row[[seen[option] for option in options]] = 1.0
        weights = rows.T @ np.linalg.solve(rows @ rows.T + _RIDGE * np.eye(len(logs)), logs)
        hope = -max(0.0, float(logs.min())) / len(alphas)
        prices = {(key, place): hope for key, row in alphas.items() for place in range(len(row))}
        return prices | {option: float(weights[column]) for option, column in seen.items()}, float(weights[-1])
