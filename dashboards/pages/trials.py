"""The table of trials: filtered, sorted, page by page."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.dashboards.library import View
from nasforge.dashboards.pages.base import Query, headline, metrics_of, number_of, sort_link
from nasforge.views import charts, tables
from nasforge.views.texts import status_text

PER_PAGE = 100
_IN_TABLE = ("val/", "cost/", "zc/", "supernet/", "time/train_s")
_COMPARED = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_TERM = re.compile(r"(.+?)(>=|<=|!=|=|>|<)(.+)")


@dataclass(frozen=True)
class TrialTable:
    """Trials as rows.

    Attributes:
        columns: names of all columns.
        metrics: those that are metrics.
        decisions: those that are decisions which a trial took.
        trials: that pass the filter, in order.
        problem: why a term of the filter is not used; empty if all are.
    """

    columns: list[str]
    metrics: list[str]
    decisions: list[str]
    trials: list[Trial]
    problem: str

    def values(self, trial: Trial) -> list[Any]:
        """Return the cells of a row, unformatted."""
        values = trial.architecture.values if trial.architecture else {}
        cells: list[Any] = [trial.number, trial.status, trial.steps_done]
        cells += [trial.metric(key) for key in self.metrics]
        return cells + [values.get(key, "") for key in self.decisions]


def trial_table(view: View, query: Query) -> TrialTable:
    """Return the trials that pass the filter of an address, sorted as it says."""
    state = view.state
    goals = {goal.metric for goal in state.objectives}
    metrics = [key for key in metrics_of(state) if key in goals or key.startswith(_IN_TABLE)]
    domains = SearchSpace.from_json(state.header.config["space"]).domains
    trials = list(state.trials.values())
    taken = {key for trial in trials if trial.architecture for key in trial.architecture.values}
    decisions = [key for key, domain in domains.items() if domain.size > 1 and key in taken]
    status = query.get("status", "")
    if status:
        trials = [trial for trial in trials if trial.status == status]
    problem = ""
    for term in query.get("filter", "").split():
        form = _TERM.fullmatch(term)
        if form is None:
            trials = [trial for trial in trials if _mentions(trial, term)]
            continue
        key = "steps" if form[1] == tables.steps_of(state) else _full_key(form[1], [*metrics, *decisions])
        if not key:
            problem = f"'{form[1]}' is no column; use a column's name, as in val/accuracy>0.9"
            continue
        trials = [trial for trial in trials if _passes(_cell(trial, key), form[2], form[3])]
    order = query.get("sort", "")
    if order:
        keyed = [(trial, _cell(trial, order)) for trial in trials]
        known = [
            pair for pair in keyed if pair[1] is not None and not (isinstance(pair[1], float) and pair[1] != pair[1])
        ]
        numeric = all(isinstance(value, (int, float)) for _, value in known)
        known.sort(key=lambda pair: pair[1] if numeric else str(pair[1]), reverse=query.get("down") == "1")
        left = {trial.number for trial, _ in known}
        trials = [trial for trial, _ in known] + [trial for trial in trials if trial.number not in left]
    return TrialTable(["trial", "status", "steps", *metrics, *decisions], metrics, decisions, trials, problem)


def _mentions(trial: Trial, text: str) -> bool:
    if trial.architecture is None:
        return False
    return text in trial.architecture.arch_id or any(text in str(value) for value in trial.architecture.values.values())


def _full_key(text: str, keys: Sequence[str]) -> str:
    if text in keys or text in ("trial", "status", "steps"):
        return text
    return next((key for key in keys if key.endswith((f".{text}", f"/{text}"))), "")


def _cell(trial: Trial, key: str) -> Any:
    if key == "trial":
        return trial.number
    if key == "status":
        return trial.status
    if key == "steps":
        return trial.steps_done
    if trial.architecture is not None and key in trial.architecture.values:
        return trial.architecture.values[key]
    return trial.metric(key)


def _passes(value: Any, sign: str, text: str) -> bool:
    if value is None:
        return False
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return bool(_COMPARED[sign](float(value), float(text)))
        except ValueError:
            return sign == "!="
    return bool(_COMPARED[sign](str(value).lower(), text.lower()))


def trials(view: View, query: Query) -> dict[str, Any]:
    """Return a page of the table of trials."""
    table = trial_table(view, query)
    pages = max(1, math.ceil(len(table.trials) / PER_PAGE))
    page = min(pages, max(1, number_of(query.get("page", "1")) or 1))
    kept = {key: value for key, value in query.items() if key not in ("page", "trials")}
    steps = tables.steps_of(view.state) or "steps"

    def other(number: int) -> str:
        return "?" + urlencode({**kept, "page": str(number)})

    return {
        **headline(view, "trials"),
        "table": table,
        "rows": table.trials[(page - 1) * PER_PAGE : page * PER_PAGE],
        "head": [(key, steps if key == "steps" else key, *sort_link(query, key)) for key in table.columns],
        "page": page,
        "pages": pages,
        "previous": other(page - 1) if page > 1 else "",
        "next": other(page + 1) if page < pages else "",
        "csv": f"/{quote(view.entry.name)}/trials.csv?" + urlencode(kept),
        "query": {
            "filter": query.get("filter", ""),
            "status": query.get("status", ""),
            "sort": query.get("sort", ""),
            "down": query.get("down", ""),
        },
        "statuses": [(status, status_text(status, view.reader.standing)) for status in charts.STATUSES],
        "problem": table.problem,
    }
