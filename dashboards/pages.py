"""What stands on each page: rows, figures and links, as the templates take them. Everything comes from files."""

from __future__ import annotations

import math
import operator
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from markupsafe import Markup, escape

from nasforge import registry
from nasforge.core.command_line import command_for, command_line, runs_dir_option
from nasforge.core.errors import NasforgeError, TrustError
from nasforge.core.metrics import direction, form_of, title_of
from nasforge.core.space import SearchSpace
from nasforge.core.trial import TrainShared, Trial
from nasforge.core.trust import view as only_looking
from nasforge.dashboards.library import (
    IN_CAMPAIGN,
    KINDS,
    STATES,
    Entry,
    Library,
    Row,
    View,
    entries_in,
    facts_of,
    fit_lines,
    fit_result,
    kind_of,
    runs_now,
    searches_of,
    state_of,
)
from nasforge.experiment.state import State
from nasforge.views import charts, tables
from nasforge.views.health import advice as health_advice
from nasforge.views.network_svg import cells_svg, network_svg
from nasforge.views.statistics import spread
from nasforge.views.svg import Bar, bars, missing, number_text

PER_PAGE = 100
_IN_TABLE = ("val/", "cost/", "zc/", "supernet/", "time/train_s")
_MOST_COMPARED = 6
_MOST_IN_MATRIX = 30
_MOST_SLICES = 12
_SHARES = frozenset(
    f"test/{name}"
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "roc_auc")
)
"""Metrics between 0 and 1: an interval of theirs ends there."""
_HIDDEN = ("time/worker_s", "work/", "health/")
Query = Mapping[str, str]


# --- how values are printed ------------------------------------------------------------------------------------------


def seconds_text(seconds: float | None) -> str:
    """`4000` -> `1 h 07 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def when_text(at: float | None) -> str:
    """A time in the server's time zone."""
    return "–" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def metric_text(value: float | None, key: str = "") -> str:
    """A metric as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    if form_of(key) == "seconds":
        return seconds_text(value)
    if key.startswith("cost/"):
        return number_text(float(f"{value:.3g}"))
    return f"{value:.4f}" if form_of(key) == "number" and 1e-3 <= abs(value) < 10 else number_text(value)


def share_text(share: float | None) -> str:
    """A share in percent."""
    return "–" if share is None else f"{share:.0%}"


def bytes_text(size: int) -> str:
    """`7050` -> `7.05 kB`."""
    text = number_text(size)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def value_text(value: object) -> str:
    """The value of a decision; none stands for a decision that the network does not have."""
    if value is None or value == "":
        return "–"
    return number_text(value) if isinstance(value, float) else str(value)


def breakable(text: str) -> Markup:
    """A long key that a narrow page may break after its dots."""
    return escape(text).replace(".", Markup(".<wbr>"))


def status_text(status: str, standing: str) -> str:
    """The status of a trial; one that a stopped search left open does not run."""
    return "interrupted" if status == "running" and standing != "running" else status


def path_of(entry: Entry) -> list[tuple[str, str]]:
    """Name and address of an entry, after those of its campaign."""
    campaign, _, search = entry.name.partition(IN_CAMPAIGN)
    address = f"/{quote(entry.name, safe=':')}"
    if entry.kind == "search" and search and entry.folder.name == search:
        return [(campaign, f"/{quote(campaign)}"), (search, address)]
    return [(entry.name, address)]


FILTERS = {
    "bytes": bytes_text,
    "value": value_text,
    "breakable": breakable,
    "status": status_text,
    "path": path_of,
    "seconds": seconds_text,
    "when": when_text,
    "metric": metric_text,
    "share": share_text,
    "title": title_of,
    "number": number_text,
    "quoted": lambda text: quote(str(text), safe=":"),
}


def _shown(key: str) -> bool:
    return not key.startswith(_HIDDEN)


# --- home ------------------------------------------------------------------------------------------------------------

_ORDERS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.entry.name,
    "kind": lambda row: row.kind,
    "state": lambda row: row.state,
    "strategy": lambda row: row.facts.get("strategy"),
    **{key: (lambda row, k=key: row.facts.get(k)) for key in ("started", "elapsed", "eta", "budget", "trials")},  # type: ignore[misc]
    **{key: (lambda row, k=key: row.facts.get(k)) for key in ("best", "test")},  # type: ignore[misc]
}


def home(library: Library, query: Query) -> dict[str, Any]:
    """All searches, fits, campaigns and calibrations."""
    return {
        "title": "NASForge",
        "heading": "",
        "files": [],
        **_table_of(library, entries_in(library.runs_dir), query),
        "live": "/",
    }


def campaign(library: Library, entry: Entry, query: Query) -> dict[str, Any]:
    """The searches of a campaign."""
    content = _table_of(library, searches_of(entry), query)
    command = command_for(entry.folder, "compare")
    return {
        "title": entry.name,
        "heading": entry.name,
        "entry": entry,
        **content,
        "live": entry.name,
        "command": command,
        "files": files_of(entry),
    }


def _table_of(library: Library, entries: list[Entry], query: Query) -> dict[str, Any]:
    rows = library.rows(entries)
    reading = sum(row.state == "reading" for row in rows)
    text, kind, state = query.get("q", "").strip(), query.get("kind", ""), query.get("state", "")
    shown = [
        row
        for row in rows
        if (not kind or row.kind == kind)
        and (not state or row.state == state)
        and (text.lower() in f"{row.entry.name} {row.facts.get('strategy')} {row.facts.get('data')}".lower())
    ]
    order, down = query.get("sort", ""), query.get("down") == "1"
    if order in _ORDERS:
        known = [row for row in shown if _ORDERS[order](row) is not None]
        known.sort(key=_ORDERS[order], reverse=down)
        shown = known + [row for row in shown if _ORDERS[order](row) is None]
    example = command_line(
        "search", "tiny", "--data", "digits", "--max-trials", "12", *runs_dir_option(library.runs_dir)
    )
    return {
        "rows": shown,
        "total": len(rows),
        "kinds": KINDS,
        "states": STATES,
        "query": {"q": text, "kind": kind, "state": state, "sort": order, "down": query.get("down", "")},
        "head": [(key, title, *_sort_link(query, key)) for key, title in _HOME_HEAD],
        "reading": {"share": 1 - reading / len(rows)} if reading else None,
        "example": example,
        "command": "",
    }


_HOME_HEAD = (
    ("name", "name"),
    ("kind", "kind"),
    ("state", "state"),
    ("strategy", "strategy"),
    ("trials", "trials"),
    ("budget", "budget used"),
    ("started", "started"),
    ("elapsed", "elapsed"),
    ("eta", "left"),
    ("best", "best"),
    ("test", "test"),
)


def _sort_link(query: Query, key: str) -> tuple[str, str]:
    """The address that sorts by a column, and the mark of the column that sorts now."""
    now = query.get("sort") == key
    down = query.get("down") == "1"
    kept = {name: value for name, value in query.items() if name not in ("sort", "down", "page", "trials")}
    address = "?" + urlencode({**kept, "sort": key, **({} if now and down else {"down": "1"})})
    return address, ("descending" if down else "ascending") if now else ""


# --- what all pages of one experiment share --------------------------------------------------------------------------


def _base(view: View, tab: str) -> dict[str, Any]:
    state, entry = view.state, view.entry
    tabs = [("search", "Search"), ("trials", "Trials"), ("importance", "What mattered"), ("how", "How it searched")]
    address = f"/{quote(entry.name)}"
    names = dict([("result", "Result"), *tabs])
    links = [(f"{address}/{key}", title, key == tab) for key, title in tabs]
    if has_result(view):
        links.insert(0, (address, "Result", tab == "result"))
    goals = [str(goal) for goal in state.objectives]
    return {
        "title": f"{entry.name}: {names[tab]}",
        "entry": entry,
        "kind": kind_of(view),
        "tabs": links,
        "live": entry.name,
        "reading": {"share": view.reader.progress} if view.reader.behind else None,
        "facts": facts_of(view),
        "standing": state_of(view),
        "goals": goals,
        "limits": [str(limit) for limit in (*state.constraints, *state.targets)],
        "best": state.best,
        "address": address,
    }


def _link(view: View) -> charts.Link:
    address = f"/{quote(view.entry.name)}/trial/"
    return lambda number: f"{address}{number}"


def _metrics_of(state: State) -> list[str]:
    """The metrics of trials: objectives first."""
    keys: dict[str, None] = {goal.metric: None for goal in state.objectives}
    trials = list(state.trials.values())
    for trial in trials[:: max(1, len(trials) // 200)]:
        keys |= dict.fromkeys(key for key in sorted(trial.metrics) if _shown(key))
    return list(keys)


# --- search ----------------------------------------------------------------------------------------------------------


def search(view: View, query: Query) -> dict[str, Any]:
    """How a search goes: best so far, front, curves, workers, failures."""
    state, link = view.state, _link(view)
    metrics = _metrics_of(state)
    over = query.get("over", "trials")
    over = over if over in charts.AXES else "trials"
    first = [goal.metric for goal in state.objectives]
    if len(first) == 1:
        first.append("cost/flops" if first[0] != "cost/flops" else "cost/params")
    first = first[:2] if first[0].startswith("cost/") else [first[1], first[0]]
    x, y = (query.get(key, "") if query.get(key) in metrics else first[i] for i, key in enumerate("xy"))
    curve = query.get("curve", "")
    reported = list(
        dict.fromkeys(k for t in list(state.trials.values())[-50:] for s in t.steps for k in s.metrics if _shown(k))
    )
    if curve not in reported:
        curve = next((key for key in (state.objectives[0].metric, "val/accuracy", *reported) if key in reported), "")
    rejected: dict[str, int] = {}
    for trial in state.trials.values():
        if trial.status == "rejected":
            for limit in (trial.result.violations if trial.result else {}) or {"a constraint": 0.0}:
                rejected[limit] = rejected.get(limit, 0) + 1
    return {
        **_base(view, "search"),
        "over": over,
        "axes": charts.AXES,
        "metrics": metrics,
        "x": x,
        "y": y,
        "curve": curve,
        "reported": sorted(reported),
        "best_so_far": Markup(view.drawn(("best", over), lambda: charts.best_so_far_chart(state, link, over))),  # noqa: S704
        "front": Markup(view.drawn(("front", x, y), lambda: charts.front_chart(state, link, x, y))),  # noqa: S704
        "curves": Markup(view.drawn(("curves", curve), lambda: charts.curves_chart(state, link, curve))),  # noqa: S704
        "workers": Markup(view.drawn(("workers",), lambda: charts.workers_chart(view.reader, link))),  # noqa: S704
        "failures": tables.failures(state),
        "rejected": sorted(rejected.items(), key=lambda item: -item[1]),
        "further": further_figures(),
        "leaders": tables.leaderboard(state, 8),
        "columns": [goal.metric for goal in state.objectives],
    }


# --- figures of plug-ins ---------------------------------------------------------------------------------------------

PLOTLY = "plotly.min.js"
_PLACED = ("best_so_far", "pareto", "learning_curves", "failures")
"""Registered figures that have a place of their own on the pages."""


def further_figures() -> list[str]:
    """The registered figures that have no place of their own."""
    return [name for name in registry.names("figure") if name not in _PLACED]


def plotly_script() -> str:
    """Plotly's script, as the Python package ships it."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def plotly_page(view: View, name: str) -> str:
    """A page with a registered figure; one that breaks is said."""
    try:
        figure = registry.get("figure", name)(view.state)
        return str(figure.to_html(include_plotlyjs=f"/static/{PLOTLY}", config={"displaylogo": False}))
    except Exception as error:  # whatever a plug-in raises
        problem = escape(f"The figure {name} cannot be drawn: {type(error).__name__}: {error}")
        return f"<!doctype html><p>{problem}</p>"


# --- trials ----------------------------------------------------------------------------------------------------------

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
        decisions: those that are decisions.
        trials: that pass the filter, in order.
        problem: why a term of the filter is not used; empty if all are.
    """

    columns: list[str]
    metrics: list[str]
    decisions: list[str]
    trials: list[Trial]
    problem: str

    def values(self, trial: Trial) -> list[Any]:
        """The cells of a row, unformatted."""
        values = trial.architecture.values if trial.architecture else {}
        cells: list[Any] = [trial.number, trial.status, _steps_done(trial)]
        cells += [trial.metric(key) for key in self.metrics]
        return cells + [values.get(key, "") for key in self.decisions]


def _steps_done(trial: Trial) -> int:
    return trial.result.steps_done if trial.result else (trial.steps[-1].step if trial.steps else 0)


def trial_table(view: View, query: Query) -> TrialTable:
    """The trials that pass the filter of an address, sorted as it says."""
    state = view.state
    goals = {goal.metric for goal in state.objectives}
    metrics = [key for key in _metrics_of(state) if key in goals or key.startswith(_IN_TABLE)]
    domains = SearchSpace.from_json(state.header.config["space"]).domains
    decisions = [key for key, domain in domains.items() if domain.size > 1]
    trials = list(state.trials.values())
    status = query.get("status", "")
    if status:
        trials = [trial for trial in trials if trial.status == status]
    problem = ""
    for term in query.get("filter", "").split():
        form = _TERM.fullmatch(term)
        if form is None:
            trials = [trial for trial in trials if _mentions(trial, term)]
            continue
        key = _full_key(form[1], [*metrics, *decisions])
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
    if text in keys or text in ("trial", "steps"):
        return text
    return next((key for key in keys if key.endswith((f".{text}", f"/{text}"))), "")


def _cell(trial: Trial, key: str) -> Any:
    if key == "trial":
        return trial.number
    if key == "status":
        return trial.status
    if key == "steps":
        return _steps_done(trial)
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
    """A page of the table of trials."""
    table = trial_table(view, query)
    pages = max(1, math.ceil(len(table.trials) / PER_PAGE))
    number = query.get("page", "1")
    page = min(pages, max(1, int(number) if number.isdecimal() else 1))
    kept = {key: value for key, value in query.items() if key not in ("page", "trials")}
    steps = tables.steps_of(view.state) or "steps"

    def other(number: int) -> str:
        return "?" + urlencode({**kept, "page": str(number)})

    return {
        **_base(view, "trials"),
        "table": table,
        "rows": table.trials[(page - 1) * PER_PAGE : page * PER_PAGE],
        "head": [(key, steps if key == "steps" else key, *_sort_link(query, key)) for key in table.columns],
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
        "statuses": charts.STATUSES,
        "problem": table.problem,
    }


def trial(view: View, number: int) -> dict[str, Any]:
    """One trial."""
    state = view.state
    one = state.trials.get(number)
    content = _base(view, "trials")
    if one is None:  # not read yet
        return {**content, "title": f"{view.entry.name}: trial {number}", "trial": None, "number": number}
    keys = sorted({key for step in one.steps for key in step.metrics if _shown(key)})
    children = [n for n, t in state.trials.items() if number in charts.parents_of(t)][:20]
    ranking = [trial.number for trial in state.ranking()]
    return {
        **content,
        "title": f"{view.entry.name}: trial {number}",
        "trial": one,
        "number": number,
        "rank": ranking.index(number) + 1 if number in ranking else None,
        "ranked": len(ranking),
        "last": len(state.trials) - 1,
        "decisions": tables.decisions(one),
        "metrics": [(key, value) for key, value in sorted(one.metrics.items()) if _shown(key)],
        "steps": tables.steps_of(state).removesuffix("s") or "step",
        "step_keys": keys,
        "reports": one.steps[-200:],
        "advice": health_advice(one),
        "parents": charts.parents_of(one),
        "origin": getattr(one.proposal, "origin", None),
        "children": children,
        "shared": isinstance(one.proposal, TrainShared),
        "cells": Markup(cells_svg(one.architecture.model)) if one.architecture else "",  # noqa: S704
        "commands": [
            command_for(view.entry.folder, "show", "--trial", str(number)),
            command_for(view.entry.folder, "show", "--trial", str(number), "--rerun"),
        ],
    }


def numbers_of(text: str) -> list[int]:
    """The trials that an address names: `3,7`."""
    return list(dict.fromkeys(int(part) for part in text.split(",") if part.strip().isdecimal()))[:_MOST_COMPARED]


def compare(view: View, text: str) -> dict[str, Any]:
    """Trials next to each other, with what differs marked."""
    state = view.state
    chosen = [state.trials[number] for number in numbers_of(text) if number in state.trials]
    keys = dict.fromkeys(key for one in chosen if one.architecture for key in one.architecture.values)
    rows = []
    for key in keys:
        values = [one.architecture.values.get(key, "") if one.architecture else "" for one in chosen]
        rows.append((key, values, len(set(map(str, values))) > 1))
    directions = {goal.metric: goal.maximise for goal in state.objectives}
    metrics = []
    for key in dict.fromkeys(key for one in chosen for key in sorted(one.metrics) if _shown(key)):
        measured = [one.metric(key) for one in chosen]
        known = [value for value in measured if value is not None and math.isfinite(value)]
        maximise = directions.get(key, direction(key))
        best = None if maximise is None or len(set(known)) < 2 else (max(known) if maximise else min(known))
        metrics.append((key, measured, best))
    names = ",".join(str(one.number) for one in chosen)
    return {
        **_base(view, "trials"),
        "title": f"{view.entry.name}: trials {names.replace(',', ', ')}",
        "chosen": chosen,
        "rows": rows,
        "metric_rows": metrics,
        "names": names,
        "cells": [Markup(cells_svg(one.architecture.model)) if one.architecture else "" for one in chosen],  # noqa: S704
    }


# --- drawings, which need torch and the data -------------------------------------------------------------------------

_DRAWING = Lock()


def networks_of(view: View, chosen: Sequence[Trial]) -> Callable[[], str]:
    """A function that draws the networks of trials, to be called when the view is free again."""
    folder, state, entry = view.reader.folder, view.state, view.entry

    def draw() -> str:
        from nasforge.views.parts import Part, parts_of_trial  # torch, not before it is needed

        networks: dict[str, list[Part]] = {}
        problems = []
        with _DRAWING:
            for one in chosen:
                title = f"trial {one.number}" + (f", {one.architecture.arch_id}" if one.architecture else "")
                try:
                    with only_looking():
                        networks[title] = parts_of_trial(folder, state, one)
                except TrustError as error:
                    command = command_for(entry.folder, "show", "--trial", str(one.number), "--draw", "network.html")
                    problems.append(f"Not drawn: {error}. Draw it by: {command}")
                except NasforgeError as error:
                    problems.append(f"Not drawn: {error}")
        said = "".join(f'<p class="missing">{escape(problem)}</p>' for problem in dict.fromkeys(problems))
        return (network_svg(networks) if networks else "") + said

    return draw


def winner_drawing(entry: Entry) -> str:
    """The network in `best/` next to the reference that was retrained with it, as SVG."""
    from nasforge.exporters.network_folder import description_of
    from nasforge.views.parts import Part, parts_of

    folders = {"the winner": entry.folder / "best"}
    references = sorted((entry.folder / "finalists").glob("*-for-*-seed*"))
    folders |= {path.name.partition("-for-")[0]: path for path in references[:1]}
    networks: dict[str, list[Part]] = {}
    problems = []
    with _DRAWING, only_looking():
        for title, folder in folders.items():
            try:
                about = description_of(folder)
                networks[title] = parts_of(about.space, about.architecture, about.shape, len(about.class_names))
            except NasforgeError as error:
                problems.append(f'<p class="missing">Not drawn: {escape(error)}</p>')
    return (network_svg(networks) if networks else "") + "".join(problems[: 0 if networks else 1])


# --- result ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Offered:
    """A file to download: its path in the experiment's folder, and its bytes."""

    path: str
    size: int


def files_of(entry: Entry) -> list[Offered]:
    """The files of a result: networks, exports, reports. None that a link leads out of the folder."""
    root = entry.folder.resolve()
    found = []
    patterns = (
        "best/*",
        "exported/*",
        "finalists/*/*",
        "report.html",
        "comparison.*",
        "plan.yaml",
        "README.md",
        "*.onnx",
        "*.csv",
    )
    for pattern in patterns:
        for path in sorted(entry.folder.glob(pattern)):
            if path.name != "checkpoint.pt" and path.is_file() and path.resolve().is_relative_to(root):
                found.append(Offered(path.relative_to(entry.folder).as_posix(), path.stat().st_size))
    return found[:400]


def has_result(view: View) -> bool:
    """Whether a search has something to show at its end."""
    if fit_result(view.entry) is not None:
        return True
    return state_of(view) != "running" and (view.state.best is not None or bool(view.state.tests))


def result(view: View) -> dict[str, Any]:
    """What came out of a search, or of a fit."""
    state, entry = view.state, view.entry
    found = fit_result(entry)
    content = {**_base(view, "result"), **_fit_content(entry, found)}
    best = state.best
    commands = list(content["commands"])
    if best is not None and found is None:
        again = command_for(entry.folder, "show", "--trial", str(best.number), "--rerun")
        commands.append(("Repeat the training of the best trial and compare", again))
        if entry.kind != "fit":
            commands.append(("Retrain the best from scratch and test it", command_for(entry.folder, "retrain")))
            commands.append(("Export it", command_for(entry.folder, "export", "--to", "onnx")))
    tested = _tested(state)
    if tested and not content["rows"]:
        content |= {"rows": tested, "bars": _bars_of(tested), "sentence": _sentence(tested)}
        content["measure"] = _measure(tested[0]["metric"])
    return {
        **content,
        "commands": commands,
        "leaders": tables.leaderboard(state, 5),
        "decisions": tables.decisions(best) if best else [],
        "columns": [goal.metric for goal in state.objectives],
        "best": best,
        "matrix": _matrix(entry, found),
    }


def fit_only(entry: Entry) -> dict[str, Any]:
    """A fit that has not begun to search, or had no need to."""
    found = fit_result(entry)
    return {
        "title": entry.name,
        "entry": entry,
        "kind": "fit",
        "live": entry.name,
        "facts": {},
        "standing": "finished" if found else "running" if runs_now(entry) else "stopped",
        "goals": [],
        "limits": [],
        "address": f"/{quote(entry.name)}",
        "leaders": [],
        "decisions": [],
        "columns": [],
        "best": None,
        "matrix": _matrix(entry, found),
        **_fit_content(entry, found),
    }


def _fit_content(entry: Entry, found: Mapping[str, Any] | None) -> dict[str, Any]:
    rows = []
    commands = []
    sentence = ""
    if found is not None:
        for row in found["rows"]:
            low, high = row["test_ci95"]["accuracy"]
            rows.append(
                {
                    **{key: row[key] for key in ("name", "kind", "params", "flops")},
                    "value": row["test"]["accuracy"],
                    "low": low,
                    "high": high,
                    "n": None,
                    "won": row["name"] == found["winner"],
                }
            )
        won = next((row for row in rows if row["won"]), None)
        if won is not None:
            name = won["name"][:1].upper() + won["name"][1:]
            sentence = (
                f"{name} answers {won['value']:.1%} of {found['split']['test']} test images correctly "
                f"(95 % interval {won['low']:.1%} to {won['high']:.1%})."
            )
        source = next((line for line in fit_lines(entry.folder) if line["kind"] == "begun"), {}).get("inputs", {})
        plan = entry.folder / "plan.yaml"
        commands.append(("Name the class of new images", command_for(entry.folder, "predict", "image.jpg")))
        commands.append(("Open its report", command_for(entry.folder, "report", "--open")))
        if plan.is_file():
            source = source.get("source", source) if isinstance(source, Mapping) else source
            words = ["fit", str(source) if isinstance(source, str) else "DATA", "--plan", str(plan)]
            commands.append(
                (
                    "Repeat it with the same decisions",
                    command_line(*words, "--name", f"{entry.name}-again", *runs_dir_option(entry.folder.parent)),
                )
            )
    decisions = []
    if entry.kind == "fit":
        for line in fit_lines(entry.folder):
            if line["kind"] == "decision" and not isinstance(line.get("value"), Mapping):
                decisions.append((str(line.get("name")).replace("_", " "), line.get("value"), line.get("reason")))
    return {
        "rows": rows,
        "bars": _bars_of(rows),
        "sentence": sentence,
        "measure": "accuracy",
        "commands": commands,
        "files": files_of(entry),
        "fit_decisions": decisions,
        "has_network": (entry.folder / "best").is_dir(),
    }


def _tested(state: State) -> list[dict[str, Any]]:
    """Retrained networks with their test accuracy over the seeds: the finalists in order of merit, then the rest."""
    key = "test/" + state.objectives[0].metric.partition("/")[2]
    if not any(key in metrics for metrics in state.tests.values()):
        key = "test/accuracy"
    groups: dict[str, list[float]] = {}
    for name, metrics in state.tests.items():
        if key in metrics:
            groups.setdefault(re.sub(r"-seed\d+-e\d+$", "", name), []).append(metrics[key])
    ranked = [(t, t.architecture) for t in reversed(state.ranking()) if t.architecture]
    by_name = {f"{point.arch_id}-{point.point_id[:6]}": t for t, point in ranked}
    best = state.best
    found = []
    for name, values in groups.items():
        one, over = by_name.get(name), spread(values)
        reference, _, of = name.partition("-for-")
        if one is not None:
            kind, title = "trial", f"trial {one.number}"
        elif of:
            of_trial = by_name.get(of)
            whose = f"trial {of_trial.number}" if of_trial else of.partition("-")[0]
            kind, title = "reference", f"{reference}, reference of {whose}"
        else:
            kind, title = ("ensemble" if name.startswith("ensemble-of-") else "other"), name
        margin = over.margin
        bounds = (0.0, 1.0) if key in _SHARES else (-math.inf, math.inf)
        row = {
            "name": title,
            "network": reference,
            "kind": kind,
            "value": over.mean,
            "n": over.n,
            "metric": key,
            "low": None if margin is None else max(bounds[0], over.mean - margin),
            "high": None if margin is None else min(bounds[1], over.mean + margin),
            "params": one.metric("cost/params") if one else None,
            "flops": one.metric("cost/flops") if one else None,
            "won": bool(one and best and one.number == best.number),
        }
        found.append(row)
    found.sort(key=lambda row: (not row["won"], row["kind"] != "trial", row["kind"] != "reference"))
    return found


def _measure(key: str) -> str:
    return key.partition("/")[2].replace("_", " ")


def _sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    won = next((row for row in rows if row["won"]), None)
    if won is None:
        return ""
    interval = "" if won["low"] is None else f" (95 % interval {won['low']:.1%} to {won['high']:.1%})"
    reference = next((row for row in rows if row["kind"] == "reference"), None)
    beside = "" if reference is None else f" The reference {reference['network']} reaches {reference['value']:.1%}."
    what = f"{won['value']:.1%} {_measure(won['metric'])} on the test split"
    seeds = f"{won['n']} seeds" if won["n"] > 1 else "one seed"
    return f"The best network reaches {what}{interval}, the mean of {seeds}.{beside}"


def _bars_of(rows: Sequence[Mapping[str, Any]]) -> Markup:
    if not rows:
        return Markup("")
    ends = [end for row in rows for end in (row["value"], row["low"], row["high"]) if end is not None]
    low = max(0.0, min(ends) - 0.15 * (max(ends) - min(ends)) - 0.01) if min(ends) > 0.3 else 0.0
    drawn = [
        Bar(
            row["name"],
            row["value"],
            f"{row['value']:.2%}",
            "best" if row["won"] else "finished",
            row["low"],
            row["high"],
        )
        for row in rows
    ]
    return Markup(bars("Test accuracy with its interval", drawn, low=low))  # noqa: S704


def _matrix(entry: Entry, found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The confusion matrix of the winner, where its answers on the test split are stored."""
    places = []
    lines = fit_lines(entry.folder) if found is not None else []
    for line in lines:
        named = (line.get("row"), (line.get("figures") or {}).get("name")) if line["kind"] == "tested" else ()
        if found is not None and found["winner"] in named:
            places.append(entry.folder / "answers" / f"{str(line['what']).replace(' ', '_')}.npz")
    places += [entry.folder / "best" / "answers.npz", *sorted((entry.folder / "finalists").glob("*/answers.npz"))]
    path = next((place for place in places if place.is_file()), None)
    if path is None or not path.resolve().is_relative_to(entry.folder.resolve()):
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            truth = np.asarray(stored["truth"]).astype(int)
            scores = stored["probabilities"] if "probabilities" in stored else stored["logits"]
            given = np.asarray(scores).argmax(1)
    except (OSError, ValueError, KeyError, IndexError, EOFError):
        return None
    classes = int(max(truth.max(initial=0), given.max(initial=0), np.asarray(scores).shape[1] - 1)) + 1
    if not len(truth) or truth.min() < 0 or len(truth) != len(given):
        return None
    names = [str(name) for name in (found or {}).get("classes", [])]
    names = names if len(names) == classes else [str(index) for index in range(classes)]
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (truth, given), 1)
    wrong = [
        (int(counts[i, j]), names[i], names[j])
        for i in range(classes)
        for j in range(classes)
        if i != j and counts[i, j]
    ]
    wrong.sort(reverse=True)
    cells = None
    if classes <= _MOST_IN_MATRIX:
        top = counts.sum(1, keepdims=True).clip(min=1)
        shades = np.ceil(9 * counts / top).astype(int)
        cells = [
            (names[i], [(int(n), int(s)) for n, s in zip(counts[i], shades[i], strict=True)]) for i in range(classes)
        ]
    return {"names": names, "cells": cells, "wrong": wrong[:12], "images": len(truth), "right": int(np.trace(counts))}


# --- what mattered, how it searched ----------------------------------------------------------------------------------


def importance(view: View, query: Query) -> dict[str, Any]:
    """Which decisions made the difference."""
    state, link = view.state, _link(view)
    metrics = [goal.metric for goal in state.objectives]
    metrics += [key for key in _metrics_of(state) if key not in metrics]
    metric = query.get("metric", "") if query.get("metric") in metrics else metrics[0]
    domains = SearchSpace.from_json(state.header.config["space"]).domains
    keys = [key for key, domain in domains.items() if domain.size > 1]
    first = query.get("from", "0")
    start = int(first) if first.isdecimal() and int(first) < len(keys) else 0
    shown = keys[start : start + _MOST_SLICES]
    slices = [
        (
            key,
            Markup(view.drawn(("slice", key, metric), lambda key=key: charts.slice_chart(state, link, key, metric))),  # noqa: S704
            Markup(view.drawn(("survival", key), lambda key=key: charts.survival_chart(state, key))),  # noqa: S704
        )
        for key in shown
    ]
    return {
        **_base(view, "importance"),
        "slices": slices,
        "metric": metric,
        "metrics": metrics,
        "total": len(keys),
        "start": start,
        "step": _MOST_SLICES,
    }


def importance_drawing(view: View) -> str:
    """Importance of the decisions for each objective, as bars."""

    def make() -> str:
        from nasforge.views.optuna_study import importances

        try:
            found = importances(view.state)
        except NasforgeError as error:
            return missing(str(error))
        return "".join(
            f"<h3>{escape(title_of(key))}</h3>{charts.importance_chart(shares)}" for key, shares in found.items()
        )

    return str(view.drawn(("importance",), make))


def how(view: View, query: Query) -> dict[str, Any]:
    """How the strategy went about it: ancestors, operators, alphas of supernets."""
    state, link = view.state, _link(view)
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
                "collapsed": bool(state.trials[number].metric("alphas/collapsed")),
                "keys": list(rows[-1][1])[:24],
                "left": max(0, len(rows[-1][1]) - 24),
            }
        )
    return {
        **_base(view, "how"),
        "lineage": Markup(view.drawn(("lineage",), lambda: charts.lineage_chart(state, link))),  # noqa: S704
        "operators": sorted(operators.items(), key=lambda item: -item[1][0]),
        "chain": chain if len(chain) > 1 else [],
        "metric": goal.metric,
        "supernets": supernets,
        "strategy": state.header.config["strategy"],
    }
