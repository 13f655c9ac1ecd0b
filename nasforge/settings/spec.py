"""The facts about a search that every plug-in is made from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nasforge.core.architecture import Value
from nasforge.core.goals import COSTS, DEFAULT_METRIC, Constraint, Objective
from nasforge.core.ladder import Rung
from nasforge.core.space import SearchSpace

if TYPE_CHECKING:
    from nasforge.settings.values import DataConfig  # it reads YAML, which a strategy does not need

CLASSIFICATION = "classification"
"""Name of the default task: one class for each image."""
_NETWORK_COSTS = {f"cost/{name}" for name in COSTS}


@dataclass(frozen=True)
class SearchSpec:
    """The first argument of every strategy, evaluator and pruner; its own options follow by name.

    Example:
        >>> spec = SearchSpec(space, DataConfig("digits"), ladder=(Rung(3),))
        >>> evaluator = Training(spec, device="cpu")

    Attributes:
        space: the search space.
        data: the data set; None where the search reads no images.
        ladder: its rungs; proposals name them by their index.
        recipe: fixed settings of the recipe; they override the space's defaults.
        objectives: the metrics to optimise; the first one ranks the leaderboard.
        targets: soft limits on costs.
        seed: seed of the search.
        constraints: hard limits on costs.
        task: registered name of what the networks are trained for.
        trials: how many the budget allows; infinite where it has no such limit. A continued search may have more.
    """

    space: SearchSpace
    data: DataConfig | None = None
    ladder: tuple[Rung, ...] = (Rung(1),)
    recipe: Mapping[str, Value] = field(default_factory=dict)
    objectives: tuple[Objective, ...] = (Objective(DEFAULT_METRIC, maximise=True),)
    targets: tuple[Constraint, ...] = ()
    seed: int = 0
    constraints: tuple[Constraint, ...] = ()
    task: str = CLASSIFICATION
    trials: float = math.inf

    def __post_init__(self) -> None:
        for name in ("ladder", "objectives", "targets", "constraints"):  # callers may pass lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "recipe", dict(self.recipe))

    @property
    def costs(self) -> frozenset[str]:
        """The costs that limits and objectives need: `cost/params`..."""
        metrics = [limit.metric for limit in (*self.constraints, *self.targets)]
        metrics += [goal.metric for goal in self.objectives if goal.metric in _NETWORK_COSTS]
        return frozenset(metrics)
