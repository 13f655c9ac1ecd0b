"""Expected cost of a relaxed network: the term that lets gradients meet a limit.

"ProxylessNAS", Cai et al. 2019, https://arxiv.org/abs/1812.00332, equation 2: E[cost] is the sum over all places of
sum_i p_i * cost(option i), exact where the places decide independently, and differentiable in p.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasforge.core.alphas import COST_TERMS
from nasforge.core.architecture import MODEL
from nasforge.core.errors import ConfigError
from nasforge.models.costs import flops_by_module
from nasforge.supernet.mixed import Mixture, Share, mixtures_in, option_name
from nasforge.supernet.network import Supernet


@dataclass(frozen=True)
class _Place:
    """One mixture: cost of each option without the mixtures in it, and these."""

    key: str
    option_costs: Tensor
    inner: tuple[tuple[_Place, ...], ...]

    def expected(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        p = probabilities[self.key]
        total = (p * self.option_costs).sum()
        for index, places in enumerate(self.inner):
            for place in places:
                total = total + p[index] * place.expected(probabilities)
        return total


class ExpectedCost:
    """E[cost] of a supernet without open widths, as a function of the decisions' probabilities.

    Attributes:
        metric: `cost/flops` (multiply-adds of one image) or `cost/params`.
    """

    def __init__(self, supernet: Supernet, metric: str, shape: tuple[int, int, int]) -> None:
        """Count every option once.

        Args:
            supernet: its mixture changes; tell it again what to run.
            metric: one of `COST_TERMS`.
            shape: channels, height, width of an image.

        Raises:
            ConfigError: another metric, or the supernet's widths are open.
        """
        check_metric(metric)
        if supernet.widths:
            raise ConfigError(
                f"the expected {metric} needs fixed widths; leave one value to {', '.join(supernet.widths)}",
                kind="unsupported",
                key=metric,
            )
        self.metric = metric
        costs = _params(supernet) if metric == "cost/params" else _flops(supernet, shape)
        self._places = _places(supernet, "", costs)
        self._fixed = costs[""] - sum(costs.get(name, 0) for name, _ in _outermost(supernet, ""))

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """Return E[cost]; `probabilities`: decision without `model.` -> one number per option, on the CPU."""
        total = torch.tensor(self._fixed, dtype=torch.float64)  # float32 cannot hold what large networks multiply
        for place in self._places:
            total = total + place.expected(probabilities)
        return total


def check_metric(metric: str) -> None:
    """Refuse a cost that a supernet's loss cannot contain: raises ConfigError."""
    if metric not in COST_TERMS:
        raise ConfigError(
            f"a supernet's loss can contain {' and '.join(COST_TERMS)}, got {metric}", kind="unsupported", key=metric
        )


def _flops(supernet: Supernet, shape: tuple[int, int, int]) -> dict[str, int]:
    everything = {}
    for mixture in mixtures_in(supernet):
        options = supernet.space.domains[MODEL + mixture.key].values
        everything[mixture.key] = Share(tuple(range(len(options))))
    supernet.mix(everything)
    return flops_by_module(supernet, shape)


def _params(supernet: Supernet) -> dict[str, int]:
    return {name: sum(p.numel() for p in module.parameters()) for name, module in supernet.named_modules()}


def _outermost(module: nn.Module, name: str) -> list[tuple[str, Mixture]]:
    """Return the mixtures in a module (perhaps itself) that are in no other mixture of it, with their names."""
    if isinstance(module, Mixture):
        return [(name, module)]
    mixtures = []
    for part, child in module.named_children():
        mixtures += _outermost(child, f"{name}.{part}" if name else part)
    return mixtures


def _places(module: nn.Module, name: str, costs: Mapping[str, int]) -> tuple[_Place, ...]:
    """Return the outermost mixtures of a module that cost anything."""
    places = []
    for place, mixture in _outermost(module, name):
        if not costs.get(place):
            continue
        option_costs, inner = [], []
        for value in mixture.values:
            part = option_name(mixture.key, value)
            option, built = f"{place}.{part}", mixture.get_submodule(part)
            nested = sum(costs.get(below, 0) for below, _ in _outermost(built, option))
            option_costs.append(float(costs.get(option, 0) - nested))
            inner.append(_places(built, option, costs))
        places.append(_Place(mixture.key, torch.tensor(option_costs, dtype=torch.float64), tuple(inner)))
    return tuple(places)
