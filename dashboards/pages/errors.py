"""Errors of the winner on the test split: confusions and surest mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasforge.dashboards.library import Entry, View, fit_lines
from nasforge.views.answers import (
    FOLDER,
    StoredAnswers,
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
    answers = None
    for line in fit_lines(entry.folder) if outcome is not None else ():
        named = (line.get("row"), (line.get("figures") or {}).get("name")) if line["kind"] == "tested" else ()
        if outcome is not None and outcome["winner"] in named:
            path = entry.folder / FOLDER / f"{str(line['what']).replace(' ', '_')}.npz"
            answers = answers or read_answers(path, entry.folder)
    names = [str(name) for name in (outcome or {}).get("classes", [])]
    return _errors(answers, names, _images_of_fit(entry) if answers is not None else None)


def _images_of_fit(entry: Entry) -> Path | None:
    """Return the folder that a fit has its images from; None where they come from no folder."""
    begun = next((line for line in fit_lines(entry.folder) if line["kind"] == "begun"), {})
    inputs = begun.get("inputs")
    source = inputs.get("source") if isinstance(inputs, Mapping) else None
    path = Path(source) if isinstance(source, str) else Path()
    return path if path.is_absolute() and path.is_dir() else None


def _errors(answers: StoredAnswers | None, names: list[str], images: Path | None) -> dict[str, Any]:
    if answers is None:
        return {"matrix": None, "mistakes": []}
    return {"matrix": confusion_of(answers, names), "mistakes": surest_mistakes(answers, names, images)}
