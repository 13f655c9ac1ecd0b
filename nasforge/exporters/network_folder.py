"""A trained network on disk: `network.json` says what it is, `weights.safetensors` holds parameters and buffers.

A folder needs nothing but nasforge (and the user's own builder, if the space names one) to become a network again:
no journal, no pickles. Normalisation travels inside, so the network takes images in 0..1.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ConfigError, ExportError, NasforgeError, TrustError, one_line
from nasforge.core.layout import BEST, DESCRIPTION, WEIGHTS
from nasforge.core.space import SearchSpace
from nasforge.core.trust import foreign
from nasforge.data.input_rule import CENTRE_CROP, InputRule
from nasforge.experiment.journal import dumps, loads, sync_folder
from nasforge.models.network import build, without_start
from nasforge.training.artifacts import sha256_of, write_tensors
from nasforge.training.probe import Probe, mismatch, probe_of

SCHEMA = 1
TRAIN_AND_VALIDATION = "train and validation"
"""What `trained["parts"]` says of a network that was trained on both."""


@dataclass(frozen=True)
class Calibration:
    """Temperature and threshold of the probabilities, measured on images that the network was not trained on.

    Attributes:
        temperature: logits are divided by it before the softmax; 1 changes nothing.
        unsure_below: an answer with a lower probability is unsure; 0: none is.
    """

    temperature: float
    unsure_below: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf") or not 0 <= self.unsure_below <= 1:
            raise ValueError(
                f"calibration: temperature {self.temperature!r} and unsure_below {self.unsure_below!r}, expected a "
                "number above 0 and one of 0..1"
            )


@dataclass(frozen=True)
class Description:
    """Everything about a trained network except its weights.

    Attributes:
        space: the search space it comes from; its builder makes the network.
        architecture: the point.
        shape: channels, height and width of an input image.
        class_names: in the order of the outputs.
        mean: per channel, of training images scaled to 0..1.
        std: likewise.
        metrics: key -> number, keys as in MLflow.
        trained: how the weights came about: `data`, `epochs`, `seed`, `recipe`.
        input: how an image file becomes an input; None: squashed to height and width, see `rule`.
        calibration: how probabilities are made from logits; None: by the softmax alone.
    """

    space: SearchSpace
    architecture: Architecture
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    input: InputRule | None = None
    calibration: Calibration | None = None

    @property
    def rule(self) -> InputRule:
        """Rule by which an image file becomes an input."""
        return self.input or InputRule(self.shape[0])

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "schema": SCHEMA,
            "space": self.space.to_json(),
            "architecture": self.architecture.to_json(),
            "shape": list(self.shape),
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "metrics": dict(self.metrics),
            "trained": dict(self.trained),
            **({"input": self.input.to_json()} if self.input else {}),
            **({"calibration": asdict(self.calibration)} if self.calibration else {}),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Description:
        """The inverse of `to_json`.

        Raises:
            ArithmeticError, AttributeError, LookupError, NasforgeError, TypeError, ValueError: anything else.
        """
        channels, height, width = (int(size) for size in content["shape"])
        description = Description(
            space=SearchSpace.from_json(content["space"]),
            architecture=Architecture.from_json(content["architecture"]),
            shape=(channels, height, width),
            class_names=tuple(content["class_names"]),
            mean=tuple(float(value) for value in content["mean"]),
            std=tuple(float(value) for value in content["std"]),
            metrics=dict(content["metrics"]),
            trained=dict(content["trained"]),
            input=InputRule.from_json(content["input"]) if "input" in content else None,
            calibration=Calibration(**content["calibration"]) if "calibration" in content else None,
        )
        if min(description.shape) < 1:
            raise ValueError(f"shape {description.shape}: expected whole numbers of at least 1")
        check_class_names(content["class_names"])
        if not all(map(math.isfinite, (*description.mean, *description.std))) or not all(description.std):
            raise ValueError("mean and std: expected finite numbers, and none of std to be 0")
        if not len(description.mean) == len(description.std) == channels:
            raise ValueError(f"{channels} channels, but {len(description.mean)} means and {len(description.std)} stds")
        if description.rule.channels != channels or (description.rule.resize == CENTRE_CROP and height != width):
            raise ValueError(f"the input rule {description.rule.to_json()} does not fit images of {description.shape}")
        return description


def check_class_names(names: Any) -> None:
    """Refuse names of classes that are not a list of distinct texts: raises ValueError."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise ValueError("class_names: expected a list of texts")
    if len(set(names)) < len(names):
        raise ValueError("class_names: expected distinct texts, and two are the same")


def in_one_line(name: str) -> str:
    """Return the name of a class for a file of lines, in which a line break would end the line."""
    return " ".join(name.splitlines())


class Normalise(nn.Module):
    """Images in 0..1 -> per channel zero mean and unit deviation, `(x - mean) / std`.

    Computed from 0..255, as in training: images that were bytes get the same bits here as there.

    Shapes:
        N x C x H x W -> the same.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        centre, scale = [255 * m for m in mean], [1 / (255 * s) for s in std]
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32).reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise a batch."""
        return (images * 255 - self.centre) * self.scale


class Network(nn.Module):
    """A trained network ready to use: float images in 0..1, N x C x H x W, -> logits, N x classes.

    Attributes:
        description: everything known about it.
        normalise: applied first.
        body: the network that the builder made.
    """

    def __init__(self, description: Description, body: nn.Module) -> None:
        super().__init__()
        self.description = description
        self.normalise = Normalise(description.mean, description.std)
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        logits: Tensor = self.body(self.normalise(images))
        return logits

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the outputs."""
        return self.description.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an input image."""
        return self.description.shape

    @property
    def saw_validation(self) -> bool:
        """True if it was trained on the validation images too, as finalists are."""
        return self.description.trained.get("parts") == TRAIN_AND_VALIDATION

    @property
    def architecture(self) -> Architecture:
        """The point of the search space."""
        return self.description.architecture


def save_network(folder: Path | str, network: nn.Module, description: Description) -> Path:
    """Write a trained network as a folder; an existing one is replaced only when the new one is complete.

    Args:
        folder: where to; its parent is made.
        network: what the space's builder made, trained; without normalisation (a `Network` is unwrapped).
        description: what it is.

    Raises:
        ExportError: the folder cannot be written.
    """
    folder = Path(folder).absolute()
    with replaced_folder(folder) as temporary:
        write_network(temporary, network, description)
    return folder


def write_network(folder: Path, network: nn.Module, description: Description) -> None:
    """Write the two files of a network folder into an existing folder; `save_network` is the safe way.

    The probe of the network is measured here, so hand over the trained module itself, not one that was built again.
    """
    body = network.body if isinstance(network, Network) else network
    weights = folder / WEIGHTS
    write_tensors(body.state_dict(), weights)
    content = description.to_json() | {"weights": {"sha256": sha256_of(weights), "size": weights.stat().st_size}}
    probe = probe_of(body, description.shape)
    if probe is not None:
        content["probe"] = probe.to_json()
    text = json.dumps(json.loads(dumps(content)), indent=1)  # through the journal's form: JSON has no NaN
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load(folder: Path | str, device: torch.device | str = "cpu", *, trust: bool = False) -> Network:
    """Return the network kept in `folder`, in eval mode, normalisation inside.

    Args:
        folder: a network folder, such as `runs/<experiment>/best`.
        device: where to put it.
        trust: you agree to run the builder that the folder names. Builders of NASForge and of installed plug-ins need
            no consent, and neither does a builder of yours that a search on this machine has used. Code that lies in
            the folder itself never runs.

    Raises:
        TrustError: the folder names code that you have not agreed to run.
        ExportError: the folder or a file is missing, damaged or of another schema, the builder cannot be found, or it
            makes a network with other weights or other answers now.
        BuildError: the space's builder does not make this network any more.

    Example:
        >>> network = nasforge.load("runs/tiny/best")
        >>> network.class_names[network(images).argmax(1)[0]]
    """
    folder, description, expected, probe = _described(folder)
    with foreign(folder, trust=trust):
        body = _untrained(folder, description)
    weights = _read_weights(folder / WEIGHTS, expected)
    try:
        body.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ExportError(
            f"{folder}: the weights do not fit the network that builder '{description.space.builder}' makes now; "
            f"use the version of the builder that it was trained with. {one_line(error)}",
            kind="mismatch",
        ) from None
    if different := mismatch(body, probe, description.shape):
        raise ExportError(
            f"{folder}: builder '{description.space.builder}' makes another network now than the trained one "
            f"({different}); use the version of the builder that it was trained with",
            kind="mismatch",
            key="builder",
        )
    return Network(description, body).to(device).eval()


def description_of(folder: Path | str) -> Description:
    """Return the description of the network in `folder`, once its weights are known to be whole; nothing is built.

    Raises:
        ExportError: the folder or a file is missing, damaged or of another schema.
    """
    folder, description, expected, _ = _described(folder)
    _read_weights(folder / WEIGHTS, expected)
    return description


def _described(folder: Path | str) -> tuple[Path, Description, str, Probe | None]:
    """Return the place of a folder's content, its description, the checksum of its weights, and its probe."""
    folder = _present(Path(folder).absolute())
    content = _read_description(folder)
    try:
        probe = Probe.from_json(content["probe"]) if "probe" in content else None
        return folder, Description.from_json(content), content["weights"]["sha256"], probe
    except (ArithmeticError, AttributeError, LookupError, NasforgeError, TypeError, ValueError) as error:
        raise ExportError(
            f"{folder / DESCRIPTION}: not a network's description ({type(error).__name__}: {error}); restore the file",
            kind="unreadable",
        ) from None


def _untrained(folder: Path, description: Description) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):  # these weights are thrown away; the caller's random stream stays put
            return build(
                without_start(description.space),  # somebody else's folder must not make us download weights
                description.architecture,
                in_channels=description.shape[0],
                classes=len(description.class_names),
            )
    except TrustError:
        raise
    except ConfigError as error:
        raise ExportError(f"{folder}: {error}", kind=error.kind, key=error.key) from None


def _read_description(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        advice = f"a network folder holds {DESCRIPTION} and {WEIGHTS}, such as runs/<experiment>/best"
        raise ExportError(f"{folder}: no such folder; {advice}", kind="missing")
    path = folder / DESCRIPTION
    try:
        content = loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        inside = f"; did you mean {folder / BEST}?" if (folder / BEST / DESCRIPTION).is_file() else ""
        raise ExportError(
            f"{folder}: not a network folder, {DESCRIPTION} is missing (found: {there}){inside}", kind="missing"
        ) from None
    except (OSError, RecursionError, TypeError, ValueError) as error:  # a number of thousands of digits
        raise ExportError(f"{path}: cannot be read ({error}); restore the file", kind="unreadable") from None
    if not isinstance(content, dict) or "schema" not in content:
        raise ExportError(
            f"{path}: not a network's description, it has no 'schema'; restore the file",
            kind="unreadable",
            key="schema",
        )
    if content["schema"] != SCHEMA:
        raise ExportError(
            f"{path}: schema {content['schema']!r}, this version of nasforge reads {SCHEMA}; "
            "load it with the version that wrote it, or retrain",
            kind="unsupported",
            key="schema",
        )
    return content


def _read_weights(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ExportError(
            f"{path}: the weights are missing; copy the whole folder, {DESCRIPTION} and {WEIGHTS}", kind="missing"
        )
    try:
        if sha256_of(path) == expected_sha256:
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        reason = "its checksum differs from the one in " + DESCRIPTION
    except (SafetensorError, OSError) as error:
        reason = one_line(error)
    raise ExportError(f"{path}: the weights are damaged, {reason}; copy the folder again or retrain", kind="unreadable")


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `folder` when the block ends well, and vanishes otherwise.

    The old folder steps aside for the moment between two renames; `finish_replacement` mends a kill in between.

    Raises:
        ExportError: the disk is full or the place not writable.
    """
    with one_error(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        finish_replacement(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
        whole = temporary / folder.name  # mkdtemp's own folder is private
        whole.mkdir()
        try:
            yield whole
            for written in whole.rglob("*"):
                sync_folder(written)
            old = _aside(folder)
            if folder.exists():
                folder.rename(old)
            whole.rename(folder)
            sync_folder(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def finish_replacement(folder: Path) -> None:
    """Bring back the old folder where a kill fell between the two renames of a replacement."""
    old = _aside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _present(folder: Path) -> Path:
    """Return the place of a folder's content: a replacement may be between its two renames, or was killed there."""
    old = _aside(folder)
    return old if not folder.exists() and old.exists() else folder


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


@contextmanager
def one_error(place: Path) -> Iterator[None]:
    """Turn a failure to write below `place` into one ExportError that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise ExportError(
            f"cannot write {place}: {reason}; free some space, or choose a folder that you may write to", kind="failed"
        ) from error
