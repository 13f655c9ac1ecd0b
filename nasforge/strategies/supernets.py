"""What strategies that train a supernet share: the evaluator that they need, and one recipe for all its networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from nasforge.core.architecture import TRAIN, Value
from nasforge.core.errors import BuildError
from nasforge.core.protocols import Strategy
from nasforge.core.space import Domain, SearchSpace

Factory = TypeVar("Factory", bound=Callable[..., Strategy])

MIXED = 4096
"""A supernet holds at most so many values of a decision."""
SHARED_WEIGHTS = "shared_weights"
"""The evaluator that trains supernets; a strategy that needs it says so in its attribute `evaluator`."""


def on_shared_weights(factory: Factory) -> Factory:
    """Marks a factory of strategies that need the evaluator `shared_weights`."""
    setattr(factory, "evaluator", SHARED_WEIGHTS)  # noqa: B010 - a function has no such attribute declared
    return factory


def check_mixable(key: str, domain: Domain) -> None:
    """Raises BuildError for a range with more values than a supernet can hold."""
    if MIXED < domain.size < math.inf:
        raise BuildError(
            f"decision '{key}' has {domain.size:,} values; a supernet holds at most {MIXED:,} of a decision. "
            "List the values that you want, or give the range a larger step"
        )


def recipe_defaults(space: SearchSpace) -> dict[str, Value]:
    """The defaults of all `train.*` decisions: the one recipe that the paths of a supernet share."""
    return {key: space.default_of(key) for key in space.domains if key.startswith(TRAIN)}
