"""Whether a proposal may start: what it costs, and what becomes of one that costs too much or cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nasforge.core.errors import BuildError, RecipeError
from nasforge.core.trial import CONTRADICTION, Measure, Proposal, Result
from nasforge.state import State

Check = Callable[[Proposal], Mapping[str, float]]
"""Costs of a proposal before it starts; raises BuildError for a network that cannot be built."""


@dataclass(frozen=True)
class Admission:
    """What the check of a proposal says.

    Attributes:
        verdict: `accepted`, `rejected` or `failed`.
        costs: what it would cost; none where no network could be built.
        refusal: the result of one that does not start; it is charged nothing.
    """

    verdict: str
    costs: Mapping[str, float]
    refusal: Result | None = None


def admission(proposal: Proposal, check: Check, state: State) -> Admission:
    """Costs against constraints."""
    try:
        costs = dict(check(proposal))
    except BuildError as error:
        advice = "the search space or its builder allows a network that cannot be built for this input"
        return Admission("failed", {}, Result.failed("invalid_shape", str(error), advice))
    except RecipeError as error:
        return Admission("failed", {}, Result.failed("error", str(error), CONTRADICTION))
    # A rung of proxies costs next to nothing and has no place for one architecture of a batch to be refused.
    free = not isinstance(proposal, Measure) or bool(state.rung_of(proposal).proxies)
    if free or not any(limit.violation(costs) for limit in state.constraints):
        return Admission("accepted", costs)
    return Admission("rejected", costs, rejection(costs, state))


def rejection(costs: Mapping[str, float], state: State) -> Result:
    """The result of a proposal with these costs, which violate the constraints."""
    violation = sum(constraint.violation(costs) for constraint in state.constraints)
    return Result("rejected", {**costs, "constraint/violation": violation})
