"""Name the class of image files by a trained network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasforge.core.errors import DataError, ExportError, did_you_mean
from nasforge.core.layout import BEST, DESCRIPTION, EXPORTED
from nasforge.data.image_file import in_threads, read_image, shown, why_unreadable
from nasforge.data.image_folder import images_below
from nasforge.data.input_rule import InputRule
from nasforge.experiment.places import places_of
from nasforge.exporters import onnx
from nasforge.exporters.network_folder import Calibration, check_class_names, load

BATCH = 64
_ONNX = "model.onnx"


@dataclass(frozen=True)
class Prediction:
    """The answer of a network for one image file.

    Attributes:
        file: the image.
        label: its class; None where the file cannot be read.
        probability: of that class; None likewise.
        probabilities: class -> probability, in the order of the classes; empty likewise.
        unsure: whether the probability is below the network's threshold; None where the network has none.
        error: why the file cannot be read; None where it could.
    """

    file: str
    label: str | None = None
    probability: float | None = None
    probabilities: Mapping[str, float] | None = None
    unsure: bool | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return `file`, `class`, `probability`, `probabilities` and, where it is known, `unsure`; or the error."""
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        unsure = {} if self.unsure is None else {"unsure": self.unsure}
        probabilities = dict(self.probabilities or {})
        answer = {"class": self.label, "probability": self.probability, "probabilities": probabilities}
        return {"file": self.file, **answer, **unsure}


@dataclass(frozen=True)
class Predictor:
    """A trained network that takes image files.

    Attributes:
        class_names: in the order of the outputs.
        shape: channels, height and width of an input.
        rule: how a file becomes an input.
        calibration: how probabilities are made from logits; None: by the softmax alone.
        logits: float32 images in 0..1, N x C x H x W, -> N x classes.
    """

    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    rule: InputRule
    calibration: Calibration | None
    logits: Callable[[torch.Tensor], torch.Tensor]

    def predict(self, files: Iterable[str | Path]) -> Iterator[Prediction]:
        """Yield the answer for each file, and for each image below each folder, in this order."""
        rest = image_files(files)
        while names := list(islice(rest, BATCH)):
            images = list(in_threads(self._read, names, len(os.sched_getaffinity(0))))
            readable = [image for image in images if not isinstance(image, str)]
            answers = iter(self.probabilities(np.stack(readable)) if readable else ())
            for name, image in zip(names, images, strict=True):
                yield Prediction(str(name), error=image) if isinstance(image, str) else self._named(name, next(answers))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return N x classes of images, uint8, N x C x H x W."""
        with torch.inference_mode():
            logits = self.logits(torch.from_numpy(images).float() / 255).double()
        temperature = self.calibration.temperature if self.calibration else 1.0
        answers: np.ndarray = torch.softmax(logits / temperature, 1).numpy()
        return answers

    def _read(self, file: Path) -> np.ndarray | str:
        """Return the pixels of a file, C x H x W, or why it cannot be read."""
        try:
            return read_image(file, self.rule, self.shape[1:]).pixels
        except DataError as error:
            return why_unreadable(file, error)

    def _named(self, file: Path, probabilities: np.ndarray) -> Prediction:
        best = int(probabilities.argmax())
        named = dict(zip(self.class_names, probabilities.tolist(), strict=True))
        highest = float(probabilities[best])
        unsure = None if self.calibration is None else highest < self.calibration.unsure_below
        return Prediction(str(file), self.class_names[best], highest, named, unsure)


def predict(
    model: str | Path, files: str | Path | Sequence[str | Path], *, runs_dir: str | Path = "runs", trust: bool = False
) -> list[Prediction]:
    """Name the class of image files.

    Args:
        model: the name of a fit or an experiment in `runs_dir`, its folder, a network folder, a folder with exported
            files, or an ONNX file of an export.
        files: image files, and folders of images; or one of them.
        runs_dir: where fits and experiments live.
        trust: you agree to run the builder that a network folder names, see `nasforge.load`.

    Returns:
        A prediction for each file; one that cannot be read has an error.

    Raises:
        ExportError: there is no such network, or it is damaged.
        DataError: there are no files, or a folder has no images.
        TrustError: the network folder names code that you have not agreed to run.
    """
    places = places_of_images("predict", files)
    predictions = list(predictor(model, runs_dir=runs_dir, trust=trust).predict(places))
    if not predictions:
        raise DataError("predict: there are no images to look at; name files or folders of images", kind="empty")
    return predictions


def predictor(model: str | Path, *, runs_dir: str | Path = "runs", trust: bool = False) -> Predictor:
    """Return the network that `model` names, ready for image files. Arguments and errors as in `predict`."""
    place = network_of(model, runs_dir)
    return _of_onnx(place) if place.is_file() else _of_folder(place, trust)


def network_of(model: str | Path, runs_dir: str | Path) -> Path:
    """Return the network folder or the ONNX file that `model` names: in `runs_dir` first, then as a path."""
    folders = places_of(model, runs_dir)
    for folder in folders:
        if place := _network_in(folder):
            return place
    if there := [folder for folder in folders if folder.exists()]:
        raise ExportError(
            f"{shown(there[0])}: there is no trained network, expected {DESCRIPTION}, best/{DESCRIPTION} or {_ONNX}. "
            "Wait until the search has a best trial, or name another folder",
            kind="missing",
        )
    names = [folder.name for folder in sorted(Path(runs_dir).glob("*/")) if _network_in(folder)]
    raise ExportError(
        f"there is no network '{model}': expected a name in {runs_dir}, a network folder or an exported folder; "
        f"{did_you_mean(str(model), names)}",
        kind="unknown",
        key="model",
    )


def _network_in(folder: Path) -> Path | None:
    """Return the network folder or the ONNX file in `folder`, or `folder` itself if it is one; None: there is none."""
    for place in (folder, folder / BEST):
        if (place / DESCRIPTION).is_file():
            return place
    files = (folder, folder / _ONNX, folder / EXPORTED / _ONNX)
    return next((file for file in files if file.is_file() and file.suffix == onnx.SUFFIX), None)


def _of_folder(folder: Path, trust: bool) -> Predictor:
    network = load(folder, trust=trust)
    about = network.description
    _check_channels(folder, about.shape[0], "use nasforge.load, and hand over arrays")
    return Predictor(about.class_names, about.shape, about.rule, about.calibration, network)


def _of_onnx(file: Path) -> Predictor:
    session = onnx.session_of(file)
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        names = json.loads(metadata["class_names"])
        check_class_names(names)
        rule = InputRule.from_text(metadata["input"])
        calibration = Calibration(**json.loads(metadata["calibration"])) if "calibration" in metadata else None
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ExportError(
            f"{shown(file)}: the file does not say its classes and how images are read ({type(error).__name__}: "
            f"{error}); export the network again",
            kind="unreadable",
        ) from None
    shape = onnx.shape_of(file, session, len(names))
    _check_channels(file, shape[0], "use onnxruntime, and hand over arrays")
    if rule.channels != shape[0]:
        raise ExportError(
            f"{shown(file)}: images are read with {rule.channels} channels, and the network takes {shape[0]}; export "
            "the network again",
            kind="mismatch",
        )
    return Predictor(tuple(names), shape, rule, calibration, onnx.logits_of(session))


def _check_channels(place: Path, channels: Any, advice: str) -> None:
    if channels not in (1, 3):
        raise ExportError(
            f"{shown(place)}: the network takes images of {channels} channels, and files have 1 or 3; {advice}",
            kind="unsupported",
        )


def places_of_images(verb: str, places: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """Return the files and folders that a user names, one or several; `verb` is for the message.

    Raises:
        DataError: a path is empty, which would be the working folder.
    """
    several = [places] if isinstance(places, (str, Path)) else places
    if any(not str(place).strip() for place in several):
        raise DataError(f"{verb}: an image's path is empty; name files or folders of images", kind="empty")
    return several


def image_files(places: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the files that are named, and the images below the folders."""
    for place in map(Path, places):
        if os.path.isdir(place):  # noqa: PTH112  (a Path raises where it may not look, or the name is too long)
            below = images_below(place)
            if not below:
                raise DataError(f"{shown(place)}: no images; name a folder of images", kind="empty")
            yield from below
        else:
            yield place
