"""Searches over one budget axis: those of a campaign, or any that were chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from markupsafe import Markup

from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, NasforgeError
from nasforge.core.layout import JOURNAL
from nasforge.dashboards.library import IN_CAMPAIGN, Courses, Entry, Library, searches_of
from nasforge.dashboards.pages.base import Query
from nasforge.experiment.places import COMPARISON
from nasforge.views.comparison import compare_groups
from nasforge.views.comparison_page import (
    AXIS_TITLES,
    comparison_chart,
    note_sentences,
    optimum_table,
    optimum_title,
    quantities_drawn,
    quantity_title,
    tables_at,
)
from nasforge.views.comparison_records import Comparison
from nasforge.views.groups import Group, groups_of, some
from nasforge.views.trajectory import Trajectory

LINES = {"strategies": "strategies, with a band over their seeds", "searches": "searches"}
"""What a line of the chart can stand for."""
_FAULTS = (NasforgeError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError, OverflowError)
"""Errors of reading a file that may hold anything."""


@dataclass(frozen=True)
class _Figures:
    """Drawings and tables of a comparison.

    Attributes:
        charts: title and drawing of each quantity.
        tables: title, columns and rows of each table; a row is the strategy and its cells.
        searches: strategy -> name and seed of its searches.
        notes: facts that a reader needs to judge the figures.
        failed: search -> why it ended early.
        samples: whether a line stands for several seeds.
    """

    charts: list[tuple[str, Markup]]
    tables: list[tuple[str, Sequence[str], list[list[str]]]]
    searches: Mapping[str, list[tuple[str, Any]]]
    notes: list[str]
    failed: Mapping[str, str]
    samples: bool


def comparison_of(library: Library, entries: Sequence[Entry], query: Query) -> dict[str, Any]:
    """Return the comparison of searches as charts and tables.

    Args:
        library: reads the searches.
        entries: searches, fits or campaigns; one campaign whose `comparison.json` is newer than its journals shows it.
        query: `axis` is one of `AXES`, `lines` one of `LINES`.
    """
    axis, lines = query.get("axis", ""), query.get("lines", "")
    axis = axis if axis in AXIS_TITLES else ""
    lines = lines if lines in LINES else ""
    content: dict[str, Any] = {
        "axes": AXIS_TITLES,
        "axis": axis or next(iter(AXIS_TITLES)),
        "choices": LINES,
        "lines": lines or next(iter(LINES)),
        "searches": [entry.name for entry in entries] if entries[0].kind != "campaign" or len(entries) > 1 else [],
        "reading": None,
        "problem": "",
        "source": "",
        "figures": None,
    }
    problem = ""
    if len(entries) == 1 and entries[0].kind == "campaign" and lines != "searches":
        stored, problem = _stored(entries[0], axis)
        if stored is not None:
            return {**content, **stored, "source": COMPARISON}
    courses = library.courses(entries)
    if courses.unread:
        done = len(courses.searches) + len(courses.broken)
        return {**content, "reading": {"share": done / (done + courses.unread)}}
    key = ("comparison", *(entry.name for entry in entries), axis, lines)
    make = partial(_computed, courses, axis or "trials", lines, problem)
    figures = library.drawings.drawn(key, courses.version, make)
    if isinstance(figures, str):
        return {**content, "problem": figures}
    return {**content, "figures": figures}


def _stored(entry: Entry, axis: str) -> tuple[dict[str, Any] | None, str]:
    """Return `axis` and `figures` of an up-to-date `comparison.json`, or None, and why it cannot be read."""
    path = entry.folder / COMPARISON
    try:
        written = path.stat().st_mtime
        if any((search.folder / JOURNAL).stat().st_mtime > written for search in searches_of(entry)):
            return None, ""
        stored = Comparison.from_json(json.loads(path.read_text(encoding="utf-8")))
        if stored.axis not in AXIS_TITLES or axis not in ("", stored.axis):
            return None, ""
        return {"axis": stored.axis, "figures": _figures(stored, entry.name)}, ""
    except FileNotFoundError:
        return None, ""
    except _FAULTS as error:
        again = command_for(entry.folder, "compare")
        return (
            None,
            f"The {COMPARISON} of this campaign cannot be read ({type(error).__name__}). Write it again: {again}",
        )


def _computed(courses: Courses, axis: str, lines: str, problem: str) -> _Figures | str:
    """Return the figures of searches, or why there are none."""
    notes = [problem] if problem else []
    notes += [f"left out, since it cannot be read: {name} ({why})" for name, why in courses.broken.items()]
    if not courses.searches:
        return " ".join(notes) or "There is no search to compare."
    try:
        groups = groups_of(courses.searches)
    except ConfigError as error:
        lines = "searches"
        notes.append(f"{error}. Each line is one search, and nothing is tested")
    if lines == "searches":
        goals = {" and ".join(search.facts["objectives"]) for search in courses.searches}
        if len(goals) > 1:
            return f"These searches have different objectives ({'; '.join(sorted(goals))}), so no axis fits them all."
        groups = [_alone(search) for search in courses.searches]
        bare = [search.experiment for search in courses.searches if search.fidelity < 0]
        notes += [f"no finished trial in {some(bare)}: left out of the figures"] if bare else []
    try:
        comparison = compare_groups("", groups, axis=axis, notes=notes)
        if lines == "searches":  # they are no samples: the other notes, on seeds and tests, do not concern them
            return _figures(replace(comparison, notes=notes), samples=False)
        return _figures(comparison)
    except ConfigError as error:
        return " ".join([*notes, f"{error}."])


def _alone(search: Trajectory) -> Group:
    """Return a group of one search, which is no sample of a strategy."""
    name = search.parts["strategy"]["name"]
    return Group(search.experiment, {"name": f"{search.experiment} by {name}", "options": {}}, (search,))


def _figures(comparison: Comparison, campaign: str = "", *, samples: bool = True) -> _Figures:
    """Return the figures of a comparison.

    Args:
        comparison: of strategies, or of single searches.
        campaign: that the names of its searches stand in; empty where they are whole.
        samples: whether a line has several seeds, so that its spread is worth a table.
    """
    charts = [
        (quantity_title(comparison, quantity), Markup(comparison_chart(comparison, quantity)))  # noqa: S704
        for quantity in quantities_drawn(comparison)
    ]
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = []
    for title, columns, body in tables_at(comparison):
        if samples:
            tables.append((title, columns, body))
        else:
            tables.append((title, ("search", "value"), [row[:1] + row[2:3] for row in body]))
    if comparison.to_optimum and samples:
        tables.append((optimum_title(comparison), *optimum_table(comparison)))
    inside = f"{campaign}{IN_CAMPAIGN}" if campaign else ""
    searches = {
        label: [
            (name if IN_CAMPAIGN in name else f"{inside}{name}", seed)
            for name, seed in zip(about["experiments"], about["seeds"], strict=True)
        ]
        for label, about in comparison.strategies.items()
    }
    return _Figures(charts, tables, searches, note_sentences(comparison), comparison.failed, samples)
