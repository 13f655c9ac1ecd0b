"""Ship a trained network: write the formats asked for, prove that each is that network, then put it in place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasforge import registry
from nasforge.config import DataConfig
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, ExportError, did_you_mean
from nasforge.core.protocols import Exporter
from nasforge.data import load_data
from nasforge.exporters.model_card import model_card
from nasforge.exporters.network_folder import DESCRIPTION, Network, load, one_error
from nasforge.exporters.verify import Agreement, reload_of, verify
from nasforge.journal import JOURNAL
from nasforge.state import load_state

CARD = "README.md"
LARGEST = 2048
"""Validation images that an export is verified on, at most."""


def export(experiment_folder: Path | str, to: Sequence[str], out: Path | str) -> dict[str, Any]:
    """Ship an experiment's best network; each file is reloaded and compared before it takes its name.

    Args:
        experiment_folder: `runs/<experiment>`, whose `best/` is shipped; a network folder itself is taken too.
        to: names of exporters: `onnx`, `torch_export`, `safetensors`, or `module:function` of your own.
        out: folder to write to; files of the same names are replaced.

    Returns:
        `files` (format -> path), `card` (path), `accuracy` on the `images` validation images compared (proof of the
        export; no measure of quality where `trained_on_these`), `verified` (format -> `Agreement` as a dictionary).

    Raises:
        ExportError: an unknown format, nothing to ship, `out` cannot be written, or an export is not the network.
        DataError: the validation images cannot be loaded.
    """
    exporters = _exporters(to)
    network = load(best_of(Path(experiment_folder)))
    images, labels = validation_images(network)
    out = Path(out)
    files: dict[str, Path] = {}
    verified: dict[str, Agreement] = {}
    with one_error(out):
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
        try:
            example = images[:2].float() / 255
            for name, exporter in exporters.items():
                reload = reload_of(exporter, name)
                folder = temporary / str(len(files))
                folder.mkdir()
                file = exporter(network, example, folder / "model")
                verified[name] = verify(name, network, reload(file), images, labels)
                files[name] = file
            card = temporary / CARD
            card.write_text(model_card(network, verified, {n: f.name for n, f in files.items()}), encoding="utf-8")
            for file in files.values():
                for written in sorted(file.parent.iterdir()):
                    written.replace(out / written.name)
            card.replace(out / CARD)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    first = next(iter(verified.values()))
    return {
        "files": {name: str(out / file.name) for name, file in files.items()},
        "card": str(out / CARD),
        "accuracy": first.accuracy,
        "images": first.images,
        "trained_on_these": network.saw_validation,
        "verified": {name: asdict(agreement) for name, agreement in verified.items()},
    }


def best_of(folder: Path) -> Path:
    """The network folder to ship: `folder` itself if it is one, else its `best/`.

    Raises:
        ExportError: an experiment that has no network with weights yet.
    """
    if (folder / DESCRIPTION).is_file():
        return folder
    if not (folder / "best").is_dir() and (folder / JOURNAL).is_file():
        state = load_state(folder)
        found, lost = state.best, ""
        if found is not None:
            looked_up = "its networks were looked up, not trained"
            advice = looked_up if state.header.config.get("data") is None else f"run: {command_for(folder, 'retrain')}"
            lost = f"its best trial ({found.number}) left no weights; {advice}"
        raise ExportError(f"{folder}: nothing to ship: {lost or state.why_no_best}")
    return folder / "best"


def validation_images(network: Network, largest: int = LARGEST) -> tuple[Tensor, Tensor]:
    """Real validation images (uint8) and labels of the data that a network was trained on, `largest` at most.

    Raises:
        ExportError: the network says nothing of its data, or they have another shape now.
        DataError: the data cannot be loaded.
    """
    settings = network.description.trained.get("data")
    if not settings:
        raise ExportError("the network does not say what data it was trained on, so no export of it can be verified")
    data = load_data(DataConfig(**settings))
    if tuple(data.shape) != network.shape or tuple(data.class_names) != network.class_names:
        raise ExportError(
            f"the data at '{settings['source']}' are not those of the training any more: images {tuple(data.shape)} in "
            f"{len(data.class_names)} classes, the network has {network.shape} in {len(network.class_names)}"
        )
    if network.description.trained.get("data_hash", data.fingerprint) != data.fingerprint:
        raise ExportError(f"the data at '{settings['source']}' have changed since the training; restore them to export")
    part = data.validation
    mixed = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))  # a part may be sorted by class
    chosen = mixed[:largest]
    return part.take(chosen), part.labels[chosen]


def _exporters(to: Sequence[str]) -> dict[str, Exporter]:
    names = [name for name in dict.fromkeys(to) if name]
    if not names:
        raise ExportError(f"no format to export to; known: {', '.join(registry.names('exporter'))}")
    for name in names:
        if name not in registry.names("exporter") and ":" not in name:
            raise ExportError(f"unknown export format '{name}'; {did_you_mean(name, registry.names('exporter'))}")
    try:
        return {name: registry.get("exporter", name) for name in names}
    except ConfigError as error:
        raise ExportError(str(error)) from None
