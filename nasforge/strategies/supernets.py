"""What strategies that train a supernet share: the evaluator that they need, and one recipe for all its networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nasforge.core.architecture import TRAIN, Value
from nasforge.core.protocols import Strategy
from nasforge.core.space import SearchSpace

Factory = TypeVar("Factory", bound=Callable[..., Strategy])

SHARED_WEIGHTS = "shared_weights"
"""The evaluator that trains supernets; a strategy that needs it says so in its attribute `evaluator`."""


def on_shared_weights(factory: Factory) -> Factory:
    """Marks a factory of strategies that need the evaluator `shared_weights`."""
    setattr(factory, "evaluator", SHARED_WEIGHTS)  # noqa: B010 - a function has no such attribute declared
    return factory


def recipe_defaults(space: SearchSpace) -> dict[str, Value]:
    """The defaults of all `train.*` decisions: the one recipe that the paths of a supernet share."""
    return {key: space.default_of(key) for key in space.domains if key.startswith(TRAIN)}
