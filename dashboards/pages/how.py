"""The page on how the strategy searched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup

from nasforge.core.space import SearchSpace
from nasforge.core.trial import TrainShared, Trial
from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import Query, headline, trial_link
from nasforge.views import charts, forecasts, policies
from nasforge.views.rounding import percent

_TAKING_OVER = 0.5
"""Share of decisions with options without weights that is worth a warning."""
_MOST_DECISIONS = 6
"""Decisions whose probabilities are drawn where none is chosen."""


def how(view: View, query: Query) -> dict[str, Any]:
    """Return the content of the page: ancestors, operators, policy, forecasts, alphas of supernets."""
    state, link = view.state, trial_link(view)
    goal = state.objectives[0]
    operators: dict[str, list[int]] = {}
    for one in state.trials.values():
        origin = getattr(one.proposal, "origin", None)
        if origin is None:
            continue
        name = " ".join(filter(None, (origin.strategy, origin.operator))) or "other"
        row = operators.setdefault(name, [0, 0, 0])
        row[0] += 1
        parents = [state.trials[p] for p in origin.parents if p in state.trials and state.trials[p].comparable]
        if parents and one.comparable:
            row[1] += 1
            row[2] += all(
                goal.oriented(one.metrics[goal.metric]) > goal.oriented(p.metrics[goal.metric]) for p in parents
            )
    chain = []
    before: Mapping[str, Any] = {}
    for number in charts.ancestors_of_best(state):
        one = state.trials[number]
        values = dict(one.architecture.values) if one.architecture else {}
        changed = [
            (key, before.get(key), value) for key, value in values.items() if before and before.get(key) != value
        ]
        chain.append((one, one.metric(goal.metric), changed))
        before = values
    supernets = []
    for number, rows in sorted(view.reader.alphas.items()):
        proposal = state.trials[number].proposal
        if not isinstance(proposal, TrainShared):
            continue
        figures = []
        for key in list(rows[-1][1])[:24]:
            domain = proposal.space.domains.get(key)
            options = getattr(domain, "options", ()) or range(len(rows[-1][1][key]))
            figures.append(Markup(charts.alphas_chart(rows, key, [str(option) for option in options])))  # noqa: S704
        supernets.append(
            {
                "number": number,
                "figures": figures,
                "collapse": Markup(charts.collapse_chart(state.trials[number])),  # noqa: S704
                "warning": _warning(state.trials[number]),
                "collapsed": bool(state.trials[number].metric("alphas/collapsed")),
                "keys": list(rows[-1][1])[:24],
                "left": max(0, len(rows[-1][1]) - 24),
            }
        )
    return {
        **headline(view, "how"),
        "lineage": Markup(view.drawn(("lineage",), lambda: charts.lineage_chart(state, link))),  # noqa: S704
        "operators": sorted(operators.items(), key=lambda item: -item[1][0]),
        "chain": chain if len(chain) > 1 else [],
        "metric": goal.metric,
        "supernets": supernets,
        "policy": _policy(view, query.get("decision", "")),
        "forecasts": _forecasts(view),
        "silent": _silent(view),
        "strategy": state.header.config["strategy"],
    }


def _policy(view: View, chosen: str) -> dict[str, Any] | None:
    """Return the figures of a policy; None where the journal holds none.

    Args:
        view: of the search.
        chosen: the decision to draw; any other text for the most decided ones.
    """
    noted = policies.policies_of(view.state)
    if not noted:
        return None
    space = SearchSpace.from_json(view.state.header.config["space"])
    shares = dict(policies.most_decided(noted))
    figures = [
        (
            key,
            shares[key],
            Markup(view.drawn(("policy", key), partial(policies.policy_chart, noted, space, key))),  # noqa: S704
        )
        for key in ([chosen] if chosen in shares else list(shares)[:_MOST_DECISIONS])
    ]
    return {
        "entropy": Markup(view.drawn(("entropy",), lambda: policies.entropy_chart(noted))),  # noqa: S704
        "figures": figures,
        "chosen": chosen,
        "decisions": sorted(shares),
        "depends": "ppo" in str(view.state.header.config["strategy"]),
    }


def _silent(view: View) -> str:
    """Return why the journal of a strategy that has a policy or forecasts holds none; empty where it holds some."""
    name, trials = view.state.header.config["strategy"]["name"], view.state.trials
    if name in ("reinforce", "ppo", "enas") and len(trials) > 1 and not policies.policies_of(view.state):
        return "An earlier version of NASForge wrote this journal, so it does not hold the policy."
    if name == "predictor" and len(view.state.objectives) > 1:
        origins = [getattr(trial.proposal, "origin", None) for trial in trials.values()]
        predicted = [origin for origin in origins if origin is not None and origin.operator == "predicted"]
        if predicted and not any(origin.forecast for origin in predicted):
            return "An earlier version of NASForge wrote this journal, so it holds no forecasts for several objectives."
    return ""


def _forecasts(view: View) -> dict[str, Any] | None:
    """Return the figures of forecasts against outcomes; None where the journal holds no forecast."""
    state, link = view.state, trial_link(view)
    outcomes = view.drawn(("outcomes",), lambda: forecasts.outcomes_of(state))
    if not outcomes:
        return None
    return {
        "count": len(outcomes),
        "weighed": len(state.objectives) > 1,
        "scatter": Markup(view.drawn(("scatter",), lambda: forecasts.forecast_chart(state, outcomes, link))),  # noqa: S704
        "over_time": Markup(view.drawn(("correlation",), lambda: forecasts.correlation_chart(outcomes))),  # noqa: S704
        "correlation": forecasts.correlation(outcomes),
        "coverage": forecasts.coverage(outcomes),
    }


def _warning(supernet: Trial) -> str:
    """Return a warning that options without weights take over; empty if they do not, or if the supernet stopped."""
    shares = [step.metrics[charts.SKIPS] for step in supernet.steps if charts.SKIPS in step.metrics]
    if not shares or shares[-1] < _TAKING_OVER or supernet.metric("alphas/collapsed"):
        return ""
    return (
        f"In {percent(shares[-1])} of the decisions the most likely network takes an option without weights, as skip "
        "connections are. Such networks often learn little. Compare with gdas or drnas, or train for fewer epochs."
    )
