"""All that lies in a runs folder, one row each: searches, campaigns, calibrations and fits, with state and result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nasforge.api.fit.log import entries_of, finished_of, reading, winner_of
from nasforge.core.errors import JournalError, NasforgeError
from nasforge.core.layout import FINALISTS, FIT, JOURNAL, SEARCH
from nasforge.core.locks import is_locked
from nasforge.experiment.journal import campaigns_in, experiments_in, fits_in, lines_of, without_collection
from nasforge.experiment.state import State, load_state
from nasforge.views.reader import standing_of
from nasforge.views.results import networks_on_test

RUNNING, FINISHED, STOPPED, BROKEN = "running", "finished", "stopped", "broken"
"""States of a row: a process works on it, it has reached its end, its command continues it, it cannot be read."""


def listing(runs_dir: Path) -> list[dict[str, Any]]:
    """Return one row per search, campaign, calibration and fit of a runs folder, the latest started first.

    The search of a fit and the searches of a campaign have no rows of their own. A row has `name`, `kind` (`search`,
    `campaign`, `calibration`, `fit`), `state`, `started` (seconds since the epoch; None where the journal has no
    times), `metric` and `value` (of the best trial, or of the network of a fit or of the retrained best trial on the
    test split; None while there is none), and `problem` (why it cannot be read, else empty).
    """
    kinds: list[tuple[str, Callable[[Path], dict[str, Any]], Sequence[Path]]] = [
        ("fit", _fit, fits_in(runs_dir, searching=False)),
        ("search", _search, experiments_in(runs_dir)),
        ("campaign", _campaign, campaigns_in(runs_dir)),
    ]
    rows = []
    for kind, read, folders in kinds:
        for folder in folders:
            with without_collection():
                rows.append(_row(kind, folder, read))
    return sorted(rows, key=lambda row: (-(row["started"] or 0.0), row["name"]))


def _row(kind: str, folder: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    row = {"name": folder.name, "kind": kind, "state": BROKEN, "started": None}
    row |= {"metric": None, "value": None, "problem": ""}
    try:
        return row | read(folder)
    except NasforgeError as error:
        return row | {"problem": str(error)}


def _fit(folder: Path) -> dict[str, Any]:
    entries = entries_of(folder)
    if not entries:
        raise JournalError(f"{folder / FIT}: the log is empty, so the fit has not started", kind="empty")
    finished = finished_of(entries)
    state = RUNNING if is_locked(folder / FIT) else STOPPED if finished is None else FINISHED
    row: dict[str, Any] = {"state": state, "started": float(entries[0]["at"])}
    if finished is not None:
        with reading(folder):
            winner = winner_of(finished["content"])
            return row | {"metric": "test/accuracy", "value": float(winner["test"]["accuracy"])}
    if (folder / SEARCH / JOURNAL).is_file():
        row |= _best([load_state(folder / SEARCH)])
    return row


def _search(folder: Path) -> dict[str, Any]:
    state = load_state(folder)
    won = next((row for row in networks_on_test(state, folder / FINALISTS) if row["won"]), None)
    result = {"metric": won["metric"], "value": won["value"]} if won else _best([state])
    row = {"state": standing_of(folder, state), "started": _started(folder), **result}
    if state.is_calibration:
        row["kind"] = "calibration"
    return row


def _campaign(folder: Path) -> dict[str, Any]:
    folders = experiments_in(folder)
    states = [load_state(search) for search in folders]
    starts = [started for search in folders if (started := _started(search)) is not None]
    standings = {standing_of(search, state) for search, state in zip(folders, states, strict=True)}
    state = next((state for state in (RUNNING, STOPPED) if state in standings), FINISHED)
    return {"state": state, "started": min(starts, default=None), **_best(states)}


def _started(folder: Path) -> float | None:
    """Return the time at which a journal begins."""
    return next(lines_of(folder)).at


def _best(states: Sequence[State]) -> dict[str, Any]:
    """Return the first objective of searches, and the best value of it; several objectives of a campaign have none."""
    goals = {str(state.objectives[0]): state.objectives[0] for state in states}
    if len(goals) != 1:
        return {}
    (goal,) = goals.values()
    values = [state.best.metrics[goal.metric] for state in states if state.best is not None]
    best = max(values, key=goal.oriented, default=None)
    return {"metric": goal.metric, "value": best}
