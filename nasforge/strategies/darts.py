"""DARTS and its relatives by name: each is one setting of `Differentiable`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nasforge.core.alphas import Settings
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Constraint
from nasforge.core.space import SearchSpace
from nasforge.strategies.differentiable import Differentiable
from nasforge.strategies.supernets import on_shared_weights


@on_shared_weights
def darts(
    space: SearchSpace,
    *,
    seed: int,
    objectives: int = 1,
    targets: Sequence[Constraint] = (),
    epochs: int = 25,
    runs: int = 1,
    second_order: bool = False,
    learning_rate: float = 0.0,
    warmup_epochs: int = 0,
    stop_at_skips: float = 0.9,
    underived: str = "none",
) -> Differentiable:
    """Every option counts by its softmax: "DARTS", Liu et al. 2019, https://arxiv.org/abs/1806.09055.

    Args:
        space: what to search; its widths, if open, are sampled.
        seed: of the search.
        objectives: one.
        targets: rank the derived networks.
        epochs: epochs of the supernet.
        runs: number of supernets.
        second_order: look ahead by one step of the weights.
        learning_rate: learning rate of the alphas; 0: from the number of steps.
        warmup_epochs: epochs that train only the weights.
        stop_at_skips: share of options without weights at which a collapsing search is stopped; 1: never.
        underived: option that is derived only if no other is allowed (`derivation.without`); empty: no such rule.
    """
    settings = Settings(
        second_order=second_order,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        stop_at_skips=stop_at_skips,
        underived=underived,
    )
    return Differentiable(
        space,
        seed=seed,
        objectives=objectives,
        targets=targets,
        relaxation="softmax",
        epochs=epochs,
        runs=runs,
        settings=settings,
    )


@on_shared_weights
def gdas(
    space: SearchSpace,
    *,
    seed: int,
    objectives: int = 1,
    targets: Sequence[Constraint] = (),
    epochs: int = 50,
    runs: int = 1,
    temperature: float = 10.0,
    last_temperature: float = 0.1,
    learning_rate: float = 0.0,
    warmup_epochs: int = 0,
    stop_at_skips: float = 0.9,
    underived: str = "none",
) -> Differentiable:
    """One Gumbel-sampled path a step: "GDAS", Dong & Yang 2019, https://arxiv.org/abs/1910.04465.

    Args:
        space: what to search.
        seed: of the search.
        objectives: one.
        targets: rank the derived networks.
        epochs: epochs of the supernet.
        runs: number of supernets.
        temperature: temperature of the Gumbel samples at the start.
        last_temperature: temperature of the Gumbel samples at the end.
        learning_rate: learning rate of the alphas; 0: from the number of steps.
        warmup_epochs: epochs that train only the weights.
        stop_at_skips: share of options without weights at which a collapsing search is stopped; 1: never.
        underived: option that is derived only if no other is allowed (`derivation.without`); empty: no such rule.
    """
    settings = Settings(
        temperature=temperature,
        last_temperature=last_temperature,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        stop_at_skips=stop_at_skips,
        underived=underived,
    )
    return Differentiable(
        space,
        seed=seed,
        objectives=objectives,
        targets=targets,
        relaxation="gumbel_hard",
        epochs=epochs,
        runs=runs,
        settings=settings,
    )


@on_shared_weights
def drnas(
    space: SearchSpace,
    *,
    seed: int,
    objectives: int = 1,
    targets: Sequence[Constraint] = (),
    epochs: int = 25,
    runs: int = 1,
    regulariser: float = 1e-3,
    learning_rate: float = 0.0,
    warmup_epochs: int = 0,
    stop_at_skips: float = 0.9,
    underived: str = "none",
) -> Differentiable:
    """Shares drawn from a Dirichlet distribution: "DrNAS", Chen et al. 2021, https://arxiv.org/abs/2006.10355.

    Args:
        space: what to search; its widths, if open, are sampled.
        seed: of the search.
        objectives: one.
        targets: rank the derived networks.
        epochs: epochs of the supernet.
        runs: number of supernets.
        regulariser: weight of the distance from the flat Dirichlet.
        learning_rate: learning rate of the alphas; 0: from the number of steps.
        warmup_epochs: epochs that train only the weights.
        stop_at_skips: share of options without weights at which a collapsing search is stopped; 1: never.
        underived: option that is derived only if no other is allowed (`derivation.without`); empty: no such rule.
    """
    settings = Settings(
        regulariser=regulariser,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        stop_at_skips=stop_at_skips,
        underived=underived,
    )
    return Differentiable(
        space,
        seed=seed,
        objectives=objectives,
        targets=targets,
        relaxation="dirichlet",
        epochs=epochs,
        runs=runs,
        settings=settings,
    )


@on_shared_weights
def cost_aware(
    space: SearchSpace,
    *,
    seed: int,
    objectives: int = 1,
    targets: Sequence[Constraint] = (),
    epochs: int = 50,
    runs: int = 1,
    cost_weight: float = 0.1,
    temperature: float = 10.0,
    last_temperature: float = 0.1,
    learning_rate: float = 0.0,
    warmup_epochs: int = 0,
) -> Differentiable:
    """Gumbel-sampled paths with the expected FLOPs or params in the loss, so that targets are met.

    "FBNet", Wu et al. 2019, https://arxiv.org/abs/1812.03443, and "ProxylessNAS", Cai et al. 2019,
    https://arxiv.org/abs/1812.00332. The weight of a term follows the excess of the most likely network over its
    target. Without targets the FLOPs count, relative to those of what is derived at the start, with a fixed weight.

    Args:
        space: what to search.
        seed: of the search.
        objectives: one.
        targets: `flops<=10M`, `params<=100k`: met by the derived network.
        epochs: epochs of the supernet.
        runs: number of supernets.
        cost_weight: weight of every cost in the loss at the start.
        temperature: temperature of the Gumbel samples at the start.
        last_temperature: temperature of the Gumbel samples at the end.
        learning_rate: learning rate of the alphas; 0: from the number of steps.
        warmup_epochs: epochs that train only the weights.
    """
    if not 0 < cost_weight < math.inf:
        raise ConfigError(f"cost_aware: cost_weight must be above 0, got {cost_weight}; without costs it is gdas")
    settings = Settings(
        temperature=temperature,
        last_temperature=last_temperature,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        # cheap options are wanted here: many of them have no weights, and the cheapest of all is none
        stop_at_skips=1.0,
        underived="",
    )
    return Differentiable(
        space,
        seed=seed,
        objectives=objectives,
        targets=targets,
        relaxation="gumbel_hard",
        epochs=epochs,
        runs=runs,
        settings=settings,
        cost_weight=cost_weight,
    )
