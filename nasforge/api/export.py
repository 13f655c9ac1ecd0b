"""Ship a trained network: write the formats asked for, prove that each is that network, then put it in place."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasforge import registry
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, ExportError, did_you_mean
from nasforge.core.layout import BEST, DESCRIPTION, JOURNAL
from nasforge.core.paths import home_expanded
from nasforge.core.protocols import Exporter
from nasforge.core.trust import foreign
from nasforge.data import ImageData, load_data
from nasforge.experiment.places import owner_of, places_of
from nasforge.experiment.state import load_state
from nasforge.exporters.model_card import is_unchanged, model_card, signed, written_files
from nasforge.exporters.network_folder import Network, in_one_line, load, one_error
from nasforge.exporters.verify import Agreement, verify
from nasforge.models.ensemble import BUILDER as ENSEMBLE_BUILDER
from nasforge.settings.experiment import DataConfig, with_absolute_paths
from nasforge.training.artifacts import sha256_of

CARDS = ("README.md", "MODEL_CARD.md")
"""Names of the model card; the second is for a folder whose README.md is somebody else's."""
LABELS, SUMS = "labels.txt", "SHA256SUMS"
SCRIPT, SCRIPT_RUNS = "predict.py", "model.onnx"
"""A script that names the class of images, and the file that it runs."""
_ARITHMETIC = 0.02
"""Difference of an accuracy that bf16, or the order of sums on another device, may make."""
LARGEST = 2048
"""Validation images that an export is verified on, at most."""


@dataclass(frozen=True)
class Exported:
    """The files of an export.

    Attributes:
        files: format -> file.
        card: model card: README.md, or MODEL_CARD.md if somebody else wrote README.md.
        accuracy: fraction of the compared validation images that the network classifies correctly. It proves the
            export; where `trained_on_these` it does not measure quality.
        images: number of validation images compared.
        trained_on_these: True if the network was trained on these images too.
        verified: format -> agreement of the file with the network.
    """

    files: Mapping[str, Path]
    card: Path
    accuracy: float
    images: int
    trained_on_these: bool
    verified: Mapping[str, Agreement]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, with paths as texts."""
        files = {name: str(file) for name, file in self.files.items()}
        return {**asdict(self), "files": files, "card": str(self.card)}


def export(
    experiment: str | Path,
    to: str | Sequence[str],
    out: Path | str,
    data: str | Path | Mapping[str, str] | None = None,
    *,
    runs_dir: str | Path = "runs",
    trust: bool = False,
) -> Exported:
    """Ship an experiment's best network; each file is reloaded and compared before it takes its name.

    Args:
        experiment: the name of a search or a fit in `runs_dir`, or its folder, whose `best/` is shipped; or a network
            folder.
        to: names of exporters, as a sequence or with commas between them: `onnx`, `torch_export`, `safetensors`, or
            `module:Class` of your own.
        out: folder to write to. Files of an earlier export are replaced, all others stay as they are. `labels.txt` and
            `SHA256SUMS` are always written, and `predict.py` with an ONNX file.
        data: where the images of the search lie now, if they were moved: a file or folder, or a mapping of `source` and
            `folder`.
        runs_dir: where searches and fits live.
        trust: you agree to run the builder that the network folder names, see `nasforge.load`.

    Returns:
        The files, and how well each agrees with the network.

    Raises:
        TrustError: the network folder names code that you have not agreed to run.
        ExportError: an unknown format, nothing to ship, `out` cannot be written or has other files of these names, an
            export is not the network, or the network is not the one that the search measured.
        DataError: the validation images cannot be loaded.
    """
    exporters = named_exporters(to)
    network, place = _network_of(experiment, runs_dir)
    with foreign(place, trust=trust):
        return _export(network, exporters, home_expanded(out), data)


def _network_of(experiment: str | Path, runs_dir: str | Path) -> tuple[Path, Path]:
    """Return the network folder to ship, and the folder for whose files the user's consent counts."""
    for place in places_of(experiment, runs_dir):
        if (place / DESCRIPTION).is_file():
            return place, place
        if (place / BEST / DESCRIPTION).is_file():
            return place / BEST, place.parent
    owner = owner_of(experiment, runs_dir)
    return best_of(owner), owner.parent


def _export(
    folder: Path, exporters: Mapping[str, Exporter], out: Path, data: str | Path | Mapping[str, str] | None
) -> Exported:
    network = load(folder)
    images, labels = validation_images(network, data)
    files: dict[str, Path] = {}
    verified: dict[str, Agreement] = {}
    if out.exists() and not out.is_dir():
        raise ExportError(
            f"out: {out} is a file, and an export is a folder. Name a folder with --out", kind="conflict", key="out"
        )
    with one_error(out):
        out.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
        try:
            example = images[:2].float() / 255
            for name, exporter in exporters.items():
                place = temporary / str(len(files))
                place.mkdir()
                file = exporter.write(network, example, place / "model")
                verified[name] = verify(name, network, exporter.reload(file), images, labels)
                _check_recorded(network, verified[name])
                files[name] = file
            every = [written for file in files.values() for written in sorted(file.parent.iterdir())]
            beside = temporary / "beside"
            beside.mkdir()
            every += _beside(beside, network, files.values())
            card_name, ours = _card_name(out), _exported(out)
            shipped = {name: out / name for name in ours if (out / name).exists()} | {file.name: file for file in every}
            every.append(_sums(beside / SUMS, shipped))
            _check_replaceable(out, every, ours)
            names = sorted({SUMS, *shipped})
            card = temporary / card_name
            file_names = {name: file.name for name, file in files.items()}
            snippets = {name: exporters[name].snippet(file, network.shape) for name, file in file_names.items()}
            text = model_card(network, verified, file_names, sorted(shipped), snippets)
            card.write_text(signed(text, names), encoding="utf-8")
            for written in (*every, card):
                written.replace(out / written.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    first = next(iter(verified.values()))
    return Exported(
        files={name: out / file.name for name, file in files.items()},
        card=out / card_name,
        accuracy=first.accuracy,
        images=first.images,
        trained_on_these=network.saw_validation,
        verified=verified,
    )


def _beside(folder: Path, network: Network, files: Collection[Path]) -> list[Path]:
    """Write what is shipped with every format: the classes, and a script where there is an ONNX file that it runs."""
    labels = folder / LABELS
    labels.write_text("".join(f"{in_one_line(name)}\n" for name in network.class_names), encoding="utf-8")
    if network.shape[0] not in (1, 3) or not any(file.name == SCRIPT_RUNS for file in files):
        return [labels]
    script = folder / SCRIPT
    # read, not imported: the script needs onnxruntime, which this process may not
    source = Path(str(files_of("nasforge.exporters"))) / "standalone.py"
    script.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return [labels, script]


def _sums(file: Path, shipped: Mapping[str, Path]) -> Path:
    """Write the checksums of the shipped files, for `sha256sum --check`; the card is left out, people edit it."""
    lines = [f"{sha256_of(shipped[name])}  {name}\n" for name in sorted(shipped) if name != SUMS]
    file.write_text("".join(lines), encoding="utf-8")
    return file


def _card_name(out: Path) -> str:
    """Return the model card's file: the first of its names that is free, or holds a card that nobody has changed.

    Raises:
        ExportError: both names are taken by other files.
    """
    for name in CARDS:
        if not _is_there(out / name) or is_unchanged(_text(out / name)):
            return name
    raise ExportError(
        f"{out}: {' and '.join(CARDS)} are there and not as an export wrote them; choose another folder with --out",
        kind="duplicate",
        key="out",
    )


def _exported(out: Path) -> set[str]:
    """Names of the files that earlier exports wrote into this folder, as its model cards say."""
    return {file for name in CARDS for file in written_files(_text(out / name))}


def _check_replaceable(out: Path, written: Sequence[Path], ours: Collection[str]) -> None:
    """Refuse to replace files that no export wrote.

    Raises:
        ExportError: a file of this name is there, with other content.
    """
    for file in written:
        place = out / file.name
        same = place.is_file() and (file.name in ours or place.read_bytes() == file.read_bytes())
        if _is_there(place) and not same:
            raise ExportError(
                f"{place}: is there already and not of an export, so it stays; move it away or choose another folder "
                "with --out",
                kind="duplicate",
                key="out",
            )


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _text(path: Path) -> str:
    """Return the text of a file; empty where there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _check_recorded(network: Network, agreement: Agreement) -> None:
    """Hold the network's accuracy on validation images against the one that the search recorded for it.

    Raises:
        ExportError: they differ by more than other arithmetic, and a sample of the images, can explain.
    """
    about = network.description
    recorded = about.metrics.get("val/accuracy")
    averaged = about.space.builder == ENSEMBLE_BUILDER  # the recorded accuracy is the mean of its members'
    if recorded is None or network.saw_validation or averaged:
        return
    sampled = agreement.images >= LARGEST
    allowed = _ARITHMETIC + 2 / agreement.images + (4 * math.sqrt(0.25 / agreement.images) if sampled else 0)
    if abs(agreement.accuracy - recorded) > allowed:
        raise ExportError(
            f"the network has an accuracy of {agreement.accuracy:.4f} on {agreement.images} validation images, but the "
            f"search recorded {recorded:.4f} for it: it is not the network that was trained. Its builder "
            f"'{about.space.builder}' may have changed, or keep parts of the network outside of its state_dict. "
            "Correct the builder, then search or retrain again",
            kind="changed",
            key="val/accuracy",
        )


def best_of(folder: Path) -> Path:
    """Return the network folder of a search or a fit.

    Raises:
        ExportError: an experiment that has no network with weights yet.
    """
    if not (folder / BEST).is_dir() and (folder / JOURNAL).is_file():
        state = load_state(folder)
        best, lost = state.best, ""
        if best is not None:
            looked_up = "its networks were looked up, not trained"
            advice = looked_up if state.header.config.get("data") is None else f"run: {command_for(folder, 'retrain')}"
            lost = f"its best trial ({best.number}) left no weights; {advice}"
        raise ExportError(
            f"{folder}: nothing to ship: {lost or state.why_no_best}", kind="missing" if lost else "empty"
        )
    return folder / BEST


def validation_images(
    network: Network, place: str | Path | Mapping[str, str] | None = None, largest: int = LARGEST
) -> tuple[Tensor, Tensor]:
    """Real validation images (uint8) and labels of the data that a network was trained on, `largest` at most.

    Args:
        network: says what it was trained on.
        place: where these data lie now, if they were moved, as in `export`.
        largest: how many images at most.

    Raises:
        ExportError: the network says nothing of its data, or they have another shape now.
        DataError: the data cannot be loaded.
    """
    settings = network.description.trained.get("data")
    if not settings:
        raise ExportError(
            "the network does not say what data it was trained on, so no export of it can be verified", kind="missing"
        )
    if place:
        settings = {**settings, **with_absolute_paths(place if isinstance(place, Mapping) else {"source": place})}
    data = load_data(DataConfig(**settings))
    changes = _changes(network, data)
    if changes:
        raise ExportError(
            f"the data at '{settings['source']}' are not those of the training any more: {changes}; restore them, or "
            "give the place of the right ones with --data",
            kind="changed",
            key="data",
        )
    split = data.validation
    mixed = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))  # a split may be sorted by class
    chosen = mixed[:largest]
    return split.take(chosen), split.labels[chosen]


def _changes(network: Network, data: ImageData) -> str:
    """Return the differences between the data and those of the network's training; empty if there are none."""
    if tuple(data.shape) != network.shape:
        return f"images of {data.shape} (channels, height, width), the network has {network.shape}"
    now, then = data.class_names, network.class_names
    if now != then:
        new = [f"'{name}'" for name in now if name not in then]
        gone = [f"'{name}'" for name in then if name not in now]
        parts = [f"new classes: {', '.join(new)}" if new else "", f"missing classes: {', '.join(gone)}" if gone else ""]
        return "; ".join(filter(None, parts)) or "the classes have another order"
    if network.description.trained.get("data_hash", data.fingerprint) != data.fingerprint:
        return "other images, labels or split, or this version of NASForge reads them differently"
    return ""


def named_exporters(to: str | Sequence[str]) -> dict[str, Exporter]:
    """Return exporters by the names that the user gave: a sequence, or a text with commas between them.

    Raises:
        ExportError: there is no such exporter, or its class lacks a method.
    """
    words = [word.strip() for word in to.split(",")] if isinstance(to, str) else to
    names = [name for name in dict.fromkeys(words) if name]
    if not names:
        raise ExportError(
            f"no format to export to; known: {', '.join(registry.names('exporter'))}", kind="empty", key="to"
        )
    for name in names:
        if name not in registry.names("exporter") and ":" not in name:
            raise ExportError(
                f"unknown export format '{name}'; {did_you_mean(name, registry.names('exporter'))}",
                kind="unknown",
                key="to",
            )
    try:
        return {name: _exporter(name) for name in names}
    except ConfigError as error:
        raise ExportError(str(error), kind=error.kind, key="to") from None


def _exporter(name: str) -> Exporter:
    plugged = registry.get("exporter", name)
    methods = ("write", "reload", "snippet")
    missing = [method for method in methods if not callable(getattr(plugged, method, None))]
    if missing or not isinstance(plugged, type):
        got = (
            f"the class {plugged.__name__}"
            if isinstance(plugged, type)
            else f"an object of type {type(plugged).__name__}"
        )
        lack = f" without {', '.join(missing)}" if missing else ""
        raise ExportError(
            f"exporter '{name}': expected a class with the methods {', '.join(methods)}; got {got}{lack}. "
            "Write such a class, see docs/howto/export.md",
            kind="type",
            key="to",
        )
    exporter: Exporter = registry.make("exporter", name, {})
    return exporter
