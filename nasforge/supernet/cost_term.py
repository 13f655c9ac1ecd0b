"""The weighted cost in the loss of a supernet's alphas."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
from torch import Tensor

from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import BuildError, ConfigError
from nasforge.models.costs import count_flops, count_params, on_meta
from nasforge.models.network import build
from nasforge.supernet.expected_cost import ExpectedCost, check_metric
from nasforge.supernet.relaxed import Relaxed

_RISE = 0.02
_BASELINE_DECAY = 0.9
_TRIED = 5


class CostTerm:
    """weight * cost / bound, with a gradient for every alpha.

    Where the decisions decide independently, the cost is its exact expectation (`ExpectedCost`). Where they do not
    (open widths, resolutions, decisions that leave out what others decide), it is that of the sampled path, with the
    score function's gradient (cost - baseline) * grad log p.

    With a bound B and the cost C of the network that would be derived now, the term is

        weight * (max(0, E / B - 1) + [C > B] * E / B),

    and the weight rises as long as C is above B: nothing is pushed below what the bound asks for. This is a soft
    target; add a constraint for a hard limit.

    Attributes:
        weight: how much the term counts now.
        baseline: running mean of the sampled costs; None where there are none.
    """

    def __init__(
        self, relaxed: Relaxed, metric: str, weight: float, bound: float | None, shape: tuple[int, int, int]
    ) -> None:
        """Count the options.

        Args:
            relaxed: network whose alphas learn to be cheap; activate the supernet again afterwards.
            metric: `cost/flops` or `cost/params`.
            weight: at the start.
            bound: of the metric; None: the term is relative to what is derived at the start.
            shape: channels, height, width of an image.

        Raises:
            ConfigError: another metric, or costs that need single paths with a relaxation of all options.
        """
        check_metric(metric)
        self.weight = weight
        self.baseline: float | None = None
        self._relaxed, self._metric, self._bound, self._shape = relaxed, metric, bound, shape
        self._known: dict[tuple[tuple[str, Value], ...], float] = {}
        self._exact: ExpectedCost | None = None
        reason = "its decisions do not cost independently of each other"
        try:
            exact = ExpectedCost(relaxed.supernet, metric, shape)
            self._exact = exact if self._agrees(exact) else None
        except (BuildError, ConfigError) as error:
            reason = str(error)
        if self._exact is None and not relaxed.relaxation.single:
            raise ConfigError(
                f"{metric} of space '{relaxed.supernet.space.name}' has no exact expectation: {reason}. Use "
                "relaxation gumbel_hard, which samples single paths",
                kind="unsupported",
                key=metric,
            )
        self._scale = bound or self.derived()

    def derived(self) -> float:
        """Return the cost of the network that would be derived now."""
        return self._cost(self._relaxed.derived)

    def penalty(self) -> Tensor:
        """Return the term, for the latest sample if it is sampled."""
        relaxed = self._relaxed
        excess = 0.0
        if self._bound is not None:
            excess = max(0.0, self.derived() / self._bound - 1)
            self.weight += _RISE * excess
        if self._exact is not None:
            shares = {key: relaxed.relaxation.probabilities(alphas) for key, alphas in relaxed.alphas.items()}
            relative = (self._exact(shares) / self._scale).float()
            if self._bound is None:
                return self.weight * relative
            return self.weight * (torch.relu(relative - 1) + (relative if excess else 0.0))
        cost = self._cost(self._path(relaxed.taken)) / self._scale
        if self._bound is not None:
            cost = max(0.0, cost - 1) + (cost if excess else 0.0)
        baseline = cost if self.baseline is None else self.baseline
        self.baseline = _BASELINE_DECAY * baseline + (1 - _BASELINE_DECAY) * cost
        logs = [torch.log_softmax(relaxed.alphas[key], 0)[index] for key, index in relaxed.taken.items()]
        return self.weight * (cost - baseline) * torch.stack(logs).sum()

    def _path(self, indices: Mapping[str, int]) -> Architecture:
        values = {MODEL + key: self._relaxed.options(key)[index] for key, index in indices.items()}
        return self._relaxed.supernet.space.fixed(values).default_point()

    def _cost(self, point: Architecture) -> float:
        """Return the cost of the network that is built for a point."""
        key = tuple(point.model.items())  # isomorphic networks share an `arch_id`, not their costs
        if key not in self._known:
            net = self._relaxed.supernet
            child = on_meta(lambda: build(net.space, point, in_channels=net.in_channels, classes=net.classes))
            cost = count_params(child) if self._metric == "cost/params" else count_flops(child, self._shape)
            self._known[key] = float(cost)
        return self._known[key]

    def _agrees(self, exact: ExpectedCost) -> bool:
        """Return whether expectations of certain decisions equal the costs of their networks, for sampled paths."""
        relaxed, rng = self._relaxed, random.Random(0)
        for _ in range(_TRIED):
            indices = {key: rng.randrange(len(alphas)) for key, alphas in relaxed.alphas.items()}
            certain = {key: torch.eye(len(alphas))[indices[key]] for key, alphas in relaxed.alphas.items()}
            if round(float(exact(certain))) != round(self._cost(self._path(indices))):
                return False
        return True
