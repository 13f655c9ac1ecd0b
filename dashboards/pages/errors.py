"""Errors of the winner on the test split: confusions and surest mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasforge.api.fit.log import entries_of
from nasforge.dashboards.library import Entry, View
from nasforge.views.answers import (
    StoredAnswers,
    answers_file,
    best_answers_file,
    class_names,
    confusion_of,
    images_folder,
    read_answers,
    surest_mistakes,
)


def errors_of_search(view: View) -> dict[str, Any]:
    """Return `matrix` and `mistakes` of the network in `best/`; None and empty where its answers are not stored."""
    folder = view.entry.folder
    path = best_answers_file(folder)
    key = ("errors", path and path.is_file() and path.stat().st_mtime_ns)
    images = images_folder(view.state)
    return view.drawn(  # type: ignore[no-any-return]
        key, lambda: _errors(read_answers(path, folder), class_names(folder), images)
    )


def errors_of_fit(entry: Entry, outcome: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `matrix` and `mistakes` of the winner of a fit; None and empty where its answers are not stored."""
    if outcome is None:
        return _errors(None, [], None)
    entries = entries_of(entry.folder)
    answers = None
    for line in entries:
        if line["kind"] == "tested" and outcome["winner"] in (line.get("row"), line["figures"].get("name")):
            answers = answers or read_answers(answers_file(entry.folder, line["what"]), entry.folder)
    images = Path(entries[0]["inputs"]["source"])  # relative: the name of a set of data
    return _errors(answers, outcome["classes"], images if images.is_absolute() and images.is_dir() else None)


def _errors(answers: StoredAnswers | None, names: list[str], images: Path | None) -> dict[str, Any]:
    if answers is None:
        return {"matrix": None, "mistakes": []}
    return {"matrix": confusion_of(answers, names), "mistakes": surest_mistakes(answers, names, images)}
