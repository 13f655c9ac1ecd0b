"""Whether a proposal may start: what it costs, and what becomes of one that costs too much or cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nasforge.core import checks
from nasforge.core.errors import BuildError, EventError, RecipeError
from nasforge.core.trial import CONTRADICTION, VIOLATION, Measure, Proposal, Result
from nasforge.experiment.state import State

Check = Callable[[Proposal], Mapping[str, float]]
"""Costs of a proposal before it starts; raises BuildError for a network that cannot be built."""

_MEND = "mend the evaluator's check, which gives a number for every cost"


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
        costs = checks.numbers(dict(check(proposal)), "the costs")
    except BuildError as error:
        advice = "the search space or its builder allows a network that cannot be built for this input"
        return Admission("failed", {}, Result.failed("invalid_shape", str(error), advice))
    except RecipeError as error:
        return Admission("failed", {}, Result.failed("error", str(error), CONTRADICTION))
    except (EventError, TypeError, ValueError) as error:
        return Admission("failed", {}, Result.failed("error", f"the check of costs: {error}", _MEND))
    # A rung of proxies costs next to nothing and has no place for one architecture of a batch to be refused.
    if not isinstance(proposal, Measure) or state.rung_of(proposal).proxies:
        return Admission("accepted", costs)
    unknown = [limit.metric for limit in state.constraints if math.isnan(costs.get(limit.metric, math.nan))]
    if unknown:
        message = f"the check of costs gives no {', '.join(unknown)}, which the constraints need"
        return Admission("failed", costs, Result.failed("error", message, _MEND))
    refusal = rejection(costs, state)
    return Admission("rejected", costs, refusal) if refusal.violations else Admission("accepted", costs)


def rejection(costs: Mapping[str, float], state: State) -> Result:
    """The result of a proposal with these costs, which violate the constraints: which, and by how much."""
    excesses = {str(limit): limit.violation(costs) for limit in state.constraints if limit.metric in costs}
    violations = {limit: excess for limit, excess in excesses.items() if excess > 0}
    return Result("rejected", {**costs, VIOLATION: sum(excesses.values())}, violations=violations)
