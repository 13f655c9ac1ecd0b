"""What MLflow gets of a search or a fit: runs, leaderboard, figures, and the winner as a registered model."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nasforge.api.fit.log import entries_of, finished_of
from nasforge.core.command_line import command_for
from nasforge.core.errors import NasforgeError
from nasforge.core.tracking_uri import NO_TRACKING
from nasforge.core.trust import foreign, view
from nasforge.experiment.journal import fit_of

_SAY = Callable[[str], None]


def track(folder: Path, uri: str | None = None, *, say: _SAY = lambda text: None) -> int:
    """Deliver everything of a search, or of the fit that holds it, that MLflow has not received.

    Args:
        folder: of the search.
        uri: of the store; None for where the search was tracked.
        say: takes what the user should know.

    Returns:
        The number of events delivered now.

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
        result = finished["content"] if finished else None
        count = deliver(folder, place, (fit or folder).name, say=say, fit=result)
    _register_winner(folder, place, say)
    return count


def track_results(folder: Path, uri: str | None, say: _SAY) -> None:
    """Deliver what a fit or a retraining has added at its end; trouble is said and never raised.

    Args:
        folder: of the search.
        uri: as in `track`, or `none`.
        say: takes what the user should know.
    """
    if uri == NO_TRACKING:
        return
    from nasforge.views.mlflow.position import is_delivered

    try:
        if is_delivered(folder, uri):  # else the tracker of the search has said what is missing, and how to deliver it
            track(folder, uri, say=say)
    except NasforgeError as error:
        place = fit_of(folder) or folder
        say(f"{error}. The results of '{place.name}' are safe. Deliver them later: {command_for(place, 'track')}")


def track_comparison(folder: Path, uri: str | None = None, *, say: _SAY = lambda text: None) -> int:
    """Deliver the result of a campaign or a comparison, unless MLflow has it.

    Args:
        folder: with `comparison.json`.
        uri: of the store; None for the one that it was delivered to, or else what MLFLOW_TRACKING_URI says.
        say: takes what the user should know.

    Returns:
        The number of runs delivered now.

    Raises:
        JournalError: the folder has no result, or it is damaged.
        TrackingError: as in `track`.
    """
    from nasforge.views.mlflow.campaigns import read_comparison, track_campaign
    from nasforge.views.mlflow.position import destination_of_comparison

    return track_campaign(folder, read_comparison(folder), destination_of_comparison(folder, uri), say=say)


def _register_winner(folder: Path, uri: str | None, say: _SAY) -> None:
    """Register the network of a search, or of a fit, that has met the test split; says what came of it.

    Args:
        folder: of the search, which was delivered.
        uri: of the store; None for the default one.
        say: takes what the user should know.
    """
    fit = fit_of(folder)
    place = fit or folder
    about = _tested(place / "best" / "network.json")
    if about is None:
        return
    from nasforge.views.mlflow.models import Winner, is_registered, register

    try:
        if is_registered(folder, uri, about):
            return
        with tempfile.TemporaryDirectory() as scratch:
            onnx = place / "exported" / "model.onnx" if fit else _exported(place / "best", Path(scratch))
            if not onnx.is_file():
                return
            card = place / "exported" / "README.md"
            say(register(folder, uri, place.name, Winner(onnx, about, card if fit and card.is_file() else None)))
    except NasforgeError as error:
        say(f"The network of '{place.name}' is not registered in MLflow: {error}")


def _exported(network: Path, folder: Path) -> Path:
    """Return the network as an ONNX file; its builder runs only with the consent that `nasforge.load` asks for."""
    import torch

    from nasforge.exporters.network_folder import load
    from nasforge.exporters.onnx import Onnx

    with foreign(network.parent.absolute().parent):
        model = load(network)
    return Onnx().write(model, torch.zeros(2, *model.shape), folder / "model")


def _tested(path: Path) -> dict[str, Any] | None:
    """Return the description of a network with figures of the test split; None where there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if any(key.startswith("test/") for key in content["metrics"]) and content["weights"]["sha256"]:
            return content
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return None
