"""Networks of a search with the widths that its limits allow, for trainings that are longer than the search's.

Found narrow and trained wide, as in "Learning Transferable Architectures for Scalable Image Recognition", Zoph et al.
2018, https://arxiv.org/abs/1707.07012; there one factor scales all layers, here each width is raised by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from nasforge.api.retrain.choice import Chosen
from nasforge.core.architecture import Architecture
from nasforge.core.domains import Choice, Int
from nasforge.core.errors import BuildError, SearchError
from nasforge.core.goals import Constraint
from nasforge.core.ranges import is_number
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure
from nasforge.data import ImageData
from nasforge.evaluators.cost_check import CostCheck
from nasforge.settings.experiment import ExperimentConfig

Costs = Callable[[Architecture], Mapping[str, float]]
"""Costs of a network, among them those that are limited."""

_COUNTED = ("cost/params", "cost/flops", "cost/memory_mb")
_WIDTHS = ("width", "channels")
"""Last parts of the names of decisions that are numbers of channels."""


def all_widened(chosen: Sequence[Chosen], config: ExperimentConfig, data: ImageData) -> list[Chosen]:
    """Return the chosen networks, each as wide as the limits of the search allow; networks that become equal, once.

    Args:
        chosen: trials, the best first.
        config: of the search, with its limits.
        data: what the networks are trained on.

    Raises:
        SearchError: the search has no limits, limits what only a measurement tells, or its space has no widths.
    """
    _check(config)
    check = CostCheck(config.space, data.shape, len(data.class_names), config.recipe, latency=None)
    by_network: dict[str, Chosen] = {}
    for one in chosen:
        point = widened(config.space, one.architecture, config.constraints, lambda point: check(Measure(point)))
        first = by_network.get(point.arch_id)
        if first is None:
            wider = replace(one, architecture=point)
            by_network[point.arch_id] = replace(wider, notes=(_remark(wider, config),))
        else:
            note = f"trial {one.trial.number} is the same network once it is widened, so it is not trained again"
            by_network[point.arch_id] = replace(first, notes=(*first.notes, f"{point.arch_id}: {note}"))
    return list(by_network.values())


def widened(space: SearchSpace, point: Architecture, limits: Sequence[Constraint], costs: Costs) -> Architecture:
    """Return the network with its widths raised, one step of one width at a time, until each next step breaks a limit.

    Of the steps within all limits the one is taken after which the limit that is used least is used most.

    Args:
        space: of the network.
        point: the network.
        limits: at least one.
        costs: of a network; raises BuildError for one that cannot be built.
    """

    def shares(wider: Architecture) -> list[float]:
        try:
            counted = costs(wider)
        except BuildError:
            return []
        return [counted[limit.metric] / limit.bound for limit in limits]

    while True:
        used = [(shares(wider), wider) for wider in _steps(space, point)]
        allowed = [(min(parts), wider) for parts, wider in used if parts and max(parts) <= 1]
        if not allowed:
            return point
        _, point = max(allowed, key=lambda one: one[0])


def _steps(space: SearchSpace, point: Architecture) -> Iterator[Architecture]:
    """Yield the points at which one width has its next value."""
    for key, options in _widths(space):
        larger = [option for option in options if key in point.values and option > float(point.values[key])]
        if larger:
            yield space.point({**point.values, key: min(larger)})


def _widths(space: SearchSpace) -> Iterator[tuple[str, list[float]]]:
    """Yield the decisions that are numbers of channels, with their values."""
    for key, domain in space.domains.items():
        opens = isinstance(domain, Choice) and any(domain.branches)
        if key.rpartition(".")[2] in _WIDTHS and isinstance(domain, (Choice, Int)) and not opens:
            numbers = [value for value in domain.values if is_number(value)]
            if len(numbers) == domain.size:
                yield key, numbers


def _check(config: ExperimentConfig) -> None:
    limits = config.constraints
    if not limits:
        raise SearchError(
            "retrain: widen needs limits, and this search has none; search with a constraint such as params<=300k",
            kind="missing",
            key="widen",
        )
    measured = [limit.text for limit in limits if limit.metric not in _COUNTED]
    if measured:
        raise SearchError(
            f"retrain: widen cannot hold a network to {measured[0]}, which is measured; it keeps to limits on params, "
            "flops and memory_mb",
            kind="unsupported",
            key="widen",
        )
    if not any(True for _ in _widths(config.space)):
        raise SearchError(
            f"retrain: the space '{config.space.name}' has no decision that can be widened; the names of widths end in "
            f"{' or '.join(_WIDTHS)}",
            kind="unsupported",
            key="widen",
        )


def _remark(chosen: Chosen, config: ExperimentConfig) -> str:
    network, within = chosen.architecture.arch_id, ", ".join(limit.text for limit in config.constraints)
    if not any(True for _ in _steps(config.space, Chosen.of(chosen.trial).architecture)):
        return f"{network}: trial {chosen.trial.number} has the largest widths of the space already"
    if not chosen.widened:
        return f"{network}: no width of trial {chosen.trial.number} can be raised within {within}"
    before = Chosen.of(chosen.trial).architecture.values
    raised = ", ".join(f"{key} {before[key]} -> {value}" for key, value in chosen.widened.items())
    return f"{network}: trial {chosen.trial.number} widened within {within}: {raised}"
