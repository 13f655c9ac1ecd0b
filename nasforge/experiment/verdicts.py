"""Verdicts on proposals and results, and explanations of a search that cannot continue."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from nasforge.core import checks
from nasforge.core.errors import BuildError, EventError, RecipeError, SearchError
from nasforge.core.trial import (
    CONTRADICTION,
    RETRIED,
    VIOLATION,
    Charge,
    Measure,
    Proposal,
    Result,
    Score,
    TrainShared,
    Trial,
)
from nasforge.experiment.state import State

Check = Callable[[Proposal], Mapping[str, float]]
"""Costs of a proposal before it starts; raises BuildError for a network that cannot be built."""

_ADVICE = "correct the evaluator's check: it must return a number for every cost"


@dataclass(frozen=True)
class Admission:
    """Outcome of a proposal's check.

    Attributes:
        verdict: `accepted`, `rejected` or `failed`.
        costs: what it would cost; none where no network could be built.
        refusal: the result of one that does not start; it is charged nothing.
    """

    verdict: str
    costs: Mapping[str, float]
    refusal: Result | None = None


def admission(proposal: Proposal, check: Check, state: State) -> Admission:
    """Check a proposal before it runs: whether it can be built, and its costs against the constraints."""
    try:
        costs = checks.numbers(dict(check(proposal)), "costs")
    except BuildError as error:
        advice = "the search space or its builder allows a network that cannot be built for this input"
        return Admission("failed", {}, Result.failed("invalid_shape", str(error), advice))
    except RecipeError as error:
        return Admission("failed", {}, Result.failed("error", str(error), CONTRADICTION))
    except (EventError, TypeError, ValueError) as error:
        return Admission("failed", {}, Result.failed("error", f"the check of costs: {error}", _ADVICE))
    # A rung of proxies costs next to nothing, and of a Score no single architecture can be refused.
    if not isinstance(proposal, Measure) or state.rung_of(proposal).proxies:
        return Admission("accepted", costs)
    unknown = [limit.metric for limit in state.constraints if math.isnan(costs.get(limit.metric, math.nan))]
    if unknown:
        message = f"the check of costs gives no {', '.join(unknown)}, which the constraints need"
        return Admission("failed", costs, Result.failed("error", message, _ADVICE))
    refusal = rejection(costs, state)
    return Admission("rejected", costs, refusal) if refusal.violations else Admission("accepted", costs)


def rejection(costs: Mapping[str, float], state: State) -> Result:
    """Return the result of a proposal whose costs violate constraints: which ones, and by how much."""
    excesses = {str(limit): limit.violation(costs) for limit in state.constraints if limit.metric in costs}
    violations = {limit: excess for limit, excess in excesses.items() if excess > 0}
    return Result("rejected", {**costs, VIOLATION: sum(excesses.values())}, violations=violations)


# --- results ---------------------------------------------------------------------------------------------------------


def invalid_report(problem: object, answer: object = None) -> Result:
    """Return the failure of a trial whose evaluator reported something that a journal cannot hold.

    Args:
        problem: what is wrong, in words.
        answer: what it returned, which may say what the work cost.
    """
    try:
        charged = checks.charge(getattr(answer, "charged", Charge()))
    except EventError:
        charged = Charge()
    return Result.failed("error", f"the evaluator's result is invalid: {problem}", "correct the evaluator", charged)


def judged(trial: Trial, result: Result, state: State) -> Result:
    """Return the result with its values; a finished measure without its objectives is a failure."""
    if result.error and result.error.cause in RETRIED:
        advice = "see the worker's log; a network that needs too much memory is killed by the system like this"
        message = f"{trial.attempts} attempts ended without a result: {result.error.message}"
        return replace(result, error=replace(result.error, cause="crash", message=message, advice=advice))
    if result.status != "finished" or isinstance(trial.proposal, TrainShared):
        return result
    if isinstance(trial.proposal, Score):
        points = len(trial.proposal.architectures)
        if len(result.scores) != points:
            message = f"the evaluator answers {len(result.scores)} of the {points} architectures of a Score"
            advice = "return the metrics of each architecture in Result.scores"
            return Result.failed("missing_metric", message, advice, result.charged)
        return replace(result, scores=tuple(_with_violation(member, state) for member in result.scores))
    metrics = {**trial.costs, **result.metrics}
    values = state.values_of(result.metrics, trial.costs)
    proxies = state.rung_of(trial.proposal).proxies
    if values is not None or proxies:
        unchecked = metrics if not proxies else _with_violation(metrics, state)
        return replace(result, metrics=unchecked, values=values)
    missing = [objective.metric for objective in state.objectives if objective.metric not in metrics]
    if missing:
        message = f"the evaluator reports no {', '.join(missing)}; it reports {', '.join(sorted(metrics))}"
        return Result.failed("missing_metric", message, "choose another --objective", result.charged)
    return Result.failed("diverged", "an objective is infinite or NaN", "lower the learning rate", result.charged)


def _with_violation(metrics: Mapping[str, float], state: State) -> Mapping[str, float]:
    """Return metrics of an architecture that was not checked, with the check's violation of its costs."""
    limits = state.constraints
    if not limits or any(limit.metric not in metrics for limit in limits):
        return metrics
    return {**metrics, VIOLATION: sum(limit.violation(metrics) for limit in limits)}


_NARROW = "Relax the constraint, or narrow the space (smaller widths, fewer layers)"


def nothing_is_admitted(state: State, advice: str = _NARROW) -> SearchError:
    """Return the error of a search whose last proposals were all rejected, or could not be built.

    Args:
        state: of the search.
        advice: what its user can do about constraints.
    """
    limits = ", ".join(constraint.text for constraint in state.constraints)
    refused = list(takewhile(lambda trial: trial.verdict != "accepted", reversed(state.trials.values())))
    error = refused[0].result.error if refused[0].result else None
    if error is not None:
        verb, key = ("built", "space") if error.cause == "invalid_shape" else ("trained", "evaluator")
        message = f"{state.unbuildable_in_a_row} proposals in a row cannot be {verb}: {error.message}"
        return SearchError(message, kind="empty", key=key)
    seen = []
    for constraint in state.constraints:
        costs = [trial.costs[constraint.metric] for trial in refused if constraint.metric in trial.costs]
        if costs:
            seen.append(f"{constraint.metric.removeprefix('cost/')}: {min(costs):,.15g}")
    return SearchError(
        f"{state.rejected_in_a_row} proposals in a row violate the constraints ({limits}). The smallest costs seen "
        f"among them: {'; '.join(seen)}. {advice}",
        kind="empty",
        key="constraints",
    )


def everything_breaks(state: State) -> SearchError:
    """Return the error of a search whose last trials all failed before their first report."""
    started = [trial for trial in state.trials.values() if trial.verdict == "accepted"]
    failed = [trial for trial in started if trial.result and trial.result.error][-3:]
    messages = "; ".join(f"trial {t.number}: {t.result.error.message}" for t in failed if t.result and t.result.error)
    return SearchError(
        f"{state.faults_in_a_row} trials in a row broke before their first report: {messages}. Remove the cause, "
        "then run the same command to resume; finished trials are kept",
        kind="failed",
    )
