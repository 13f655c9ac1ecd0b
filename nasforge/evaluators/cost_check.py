"""Cost check of a network before it is trained, for searches with image networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nasforge.core.architecture import Architecture, Value
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Proposal


class CostCheck:
    """Params, FLOPs and memory on the meta device, cached by the decisions; latency only where a limit needs it.

    Attributes:
        latency: times an architecture (ms); a runner whose workers are elsewhere puts its own in its place. None: no
            limit or objective needs it.
    """

    def __init__(
        self,
        space: SearchSpace,
        shape: tuple[int, int, int],
        classes: int,
        recipe: Mapping[str, Value],
        *,
        latency: Callable[[Architecture], float] | None,
    ) -> None:
        """Measure costs of networks of `space` for inputs of `shape` (channels, height, width), trained by `recipe`."""
        self.space = space
        self.shape = shape
        self.classes = classes
        self.recipe = recipe
        self.latency = latency
        self._known: dict[tuple[tuple[tuple[str, Value], ...], int], dict[str, float]] = {}

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        """Return `cost/params`, `cost/flops`, `cost/memory_mb` and, if timed, `cost/latency_ms`; {} for a supernet.

        Raises:
            BuildError: the network cannot be built for this input.
        """
        from nasforge.core.recipe import recipe_of
        from nasforge.models.costs import (
            costs_of,  # torch only when a network is built: the runners know this class too
        )
        from nasforge.models.network import build

        if not isinstance(proposal, Measure):
            return {}
        architecture = proposal.architecture
        batch_size = recipe_of(self.space, architecture, self.recipe).batch_size
        key = (tuple(architecture.model.items()), batch_size)  # isomorphic networks share an `arch_id`, not their costs
        if key not in self._known:

            def network() -> Any:
                return build(self.space, architecture, in_channels=self.shape[0], classes=self.classes)

            costs = dict(costs_of(network, self.shape, batch_size, self.classes))
            if self.latency is not None:
                costs["cost/latency_ms"] = self.latency(architecture)
            self._known[key] = costs
        return self._known[key]
