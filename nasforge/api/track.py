"""Delivery of a search or a fit to MLflow: runs, leaderboard, figures, and the winner as a registered model."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.api.fit.log import entries_of, finished_of
from nasforge.core.command_line import command_for
from nasforge.core.errors import DataError, NasforgeError
from nasforge.core.layout import BEST, DESCRIPTION, EXPORTED, JOURNAL, REPORT
from nasforge.core.say import Say, silent
from nasforge.core.tracking_uri import NO_TRACKING
from nasforge.core.trust import foreign, view
from nasforge.experiment.journal import fit_of
from nasforge.experiment.state import State, load_state
from nasforge.views.reader import Reader

if TYPE_CHECKING:
    from nasforge.views.mlflow.progress import Progress


def track(
    folder: Path,
    uri: str | None = None,
    *,
    say: Say = silent,
    progress: Progress = lambda done, total: None,
) -> int:
    """Deliver everything of a search, or of the fit that holds it, that MLflow has not received.

    Args:
        folder: of the search.
        uri: of the store; None for where the search was tracked.
        say: takes what the user should know.
        progress: takes the number of events that MLflow has, and of all, several times a second. Several threads call
            it, one after the other.

    Returns:
        The number of events, rows and files delivered now.

    Raises:
        JournalError: no experiment there, or a corrupt journal or log.
        TrackingError: the URI is none of MLflow's, the server cannot be reached, or a running search delivers already.
    """
    from nasforge.views.mlflow.position import destination
    from nasforge.views.mlflow.tracker import track as deliver

    fit = fit_of(folder)
    finished = finished_of(entries_of(fit)) if fit else None
    with view():
        place = destination(folder, uri)
        state = load_state(folder)  # a journal that contradicts itself is refused before the store gets any of it
        result = finished["content"] if finished else None
        count = deliver(folder, place, (fit or folder).name, say=say, fit=result, progress=progress)
    count += _send_files(folder, place, state)
    _register_winner(folder, place, say)
    return count


def track_results(folder: Path, uri: str | None, say: Say) -> None:
    """Deliver what a fit or a retraining has added at its end; problems are reported and never raised.

    Args:
        folder: of the search.
        uri: as in `track`, or `none`.
        say: takes what the user should know.
    """
    if uri == NO_TRACKING:
        return
    from nasforge.views.mlflow.position import is_delivered

    try:
        if is_delivered(folder, uri):  # else the search's tracker has printed what is missing, and how to deliver it
            track(folder, uri, say=say)
    except NasforgeError as error:
        place = fit_of(folder) or folder
        say(f"{error}. The results of '{place.name}' are safe. Deliver them later: {command_for(place, 'track')}")


def track_files(folder: Path, uri: str | None, state: State, say: Say, *, stopped: bool = False) -> None:
    """Deliver the drawings of a search at its end; problems are reported and never raised.

    Args:
        folder: of the search.
        uri: as in `track`.
        state: of the search.
        say: takes what the user should know.
        stopped: whether the user has stopped the search, and so waits for this a few seconds at most.
    """
    from nasforge.views.mlflow.position import is_delivered
    from nasforge.views.mlflow.tracker import STOPPED_S

    try:
        if is_delivered(folder, uri):
            _send_files(folder, uri, state, STOPPED_S if stopped else math.inf)
    except NasforgeError as error:
        say(f"{error}. Deliver them later: {command_for(fit_of(folder) or folder, 'track')}")


def _send_files(folder: Path, uri: str | None, state: State, limit_s: float = math.inf) -> int:
    """Draw the winner and the front, write the report, and send them with the pages that other commands have written.

    A report that `nasforge report` has written since the last event is sent as it is: it has the importance of
    decisions, which takes seconds.
    """
    from nasforge.api.report import search_report
    from nasforge.views.mlflow.files import FRONT, NETWORK, files_of, front_svg, log_files
    from nasforge.views.picture import write

    with tempfile.TemporaryDirectory() as scratch:
        files = files_of(folder)
        drawn = {NETWORK: _winner_svg(fit_of(folder) or folder), FRONT: front_svg(state)}
        if fit_of(folder) is None and not _is_current(files.get(REPORT), folder / JOURNAL):
            reader = Reader(folder)
            reader.refresh()
            drawn[REPORT] = search_report(reader, importance=False)
        for name, text in drawn.items():
            if text:
                files[name] = Path(scratch) / name
                write(files[name], text)
        return log_files(folder, uri, files, limit_s)


def _is_current(page: Path | None, journal: Path) -> bool:
    """Return whether a page was written after the last event of a journal."""
    try:
        return page is not None and page.stat().st_mtime >= journal.stat().st_mtime
    except OSError:
        return False


def _winner_svg(folder: Path) -> str:
    """Return the drawing of the network in `best/` next to its reference; empty where there is none to draw."""
    from nasforge.views.network_svg import network_svg
    from nasforge.views.svg import standalone
    from nasforge.views.winner import winner_and_reference

    with foreign(folder.absolute().parent):
        networks, _ = winner_and_reference(folder)
    return standalone(network_svg(networks)) if networks else ""


def track_comparison(
    folder: Path, uri: str | None = None, *, say: Say = silent, progress: Progress | None = None
) -> int:
    """Deliver the result of a campaign or a comparison, unless MLflow has it.

    Args:
        folder: with `comparison.json`.
        uri: of the store; None for the one that it was delivered to, or else what MLFLOW_TRACKING_URI says.
        say: takes what the user should know.
        progress: takes the number of runs that MLflow has, and of all; None for lines that `say` takes.

    Returns:
        The number of runs delivered now.

    Raises:
        JournalError: the folder has no result, or it is damaged.
        TrackingError: as in `track`.
    """
    from nasforge.views.mlflow.campaigns import read_comparison, track_campaign
    from nasforge.views.mlflow.position import destination_of_comparison

    content, place = read_comparison(folder), destination_of_comparison(folder, uri)
    return track_campaign(folder, content, place, say=say, progress=progress)


def _register_winner(folder: Path, uri: str | None, say: Say) -> None:
    """Register the network of a search, or of a fit, that has met the test split; says what came of it.

    Args:
        folder: of the search, which was delivered.
        uri: of the store; None for the default one.
        say: takes what the user should know.
    """
    fit = fit_of(folder)
    place = fit or folder
    about = _tested(place / BEST / DESCRIPTION)
    if about is None:
        return
    from nasforge.views.mlflow.models import Winner, is_registered, register

    try:
        if is_registered(folder, uri, about):
            return
        with tempfile.TemporaryDirectory() as scratch:
            exported = place / EXPORTED if fit else _exported(place, Path(scratch), say)
            onnx, card = exported / "model.onnx", exported / "README.md"
            if not onnx.is_file():
                return
            say(register(folder, uri, place.name, Winner(onnx, about, card if card.is_file() else None)))
    except NasforgeError as error:
        say(f"The network of '{place.name}' is not registered in MLflow: {error}")


def _exported(experiment: Path, scratch: Path, say: Say) -> Path:
    """Return a folder with the network as an ONNX file and its model card.

    Its builder runs only with the consent that `nasforge.load` asks for.
    """
    from nasforge.api.export import export

    try:
        export(experiment, ["onnx"], scratch)
        return scratch
    except DataError as error:  # moved images: the network can be shipped, and nothing can be measured for its card
        say(f"MLflow gets no model card of '{experiment.name}': {error}")
    import torch

    from nasforge.exporters.network_folder import load
    from nasforge.exporters.onnx import Onnx

    with foreign(experiment.absolute().parent):
        model = load(experiment / BEST)
    Onnx().write(model, torch.zeros(2, *model.shape), scratch / "model")
    return scratch


def _tested(path: Path) -> dict[str, Any] | None:
    """Return the description of a network with figures of the test split; None where there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if any(key.startswith("test/") for key in content["metrics"]) and content["weights"]["sha256"]:
            return content
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return None
