"""The winner of a search or a fit as a registered model of MLflow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nasforge.core.errors import NasforgeError
from nasforge.core.trust import foreign
from nasforge.experiment.journal import fit_of

_SAY = Callable[[str], None]


def register_winner(folder: Path, uri: str | None, say: _SAY) -> None:
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
