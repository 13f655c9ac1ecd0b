"""Weights that outlive a trial: written whole or not at all, named by their hash, checked when read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nasforge.core.errors import DataError, one_line
from nasforge.core.protocols import Report
from nasforge.core.trial import CHECKPOINT, Artifact
from nasforge.data.split import Split
from nasforge.tasks.task import Answers
from nasforge.training.probe import Probe


def save_weights(
    state: Mapping[str, Tensor], report: Report, name: str = "weights", probe: Probe | None = None
) -> Artifact:
    """Write `<name>.safetensors` into the attempt's folder, with the probe of the trained network if there is one."""
    metadata = {} if probe is None else {PROBE: json.dumps(probe.to_json())}
    return _written(f"{name}.safetensors", report, lambda file: write_tensors(state, file, metadata))


def write_tensors(state: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, whose mode is that of any new file."""
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, dict(metadata) if metadata else None)
    file.chmod(mode)  # safetensors makes its files private


PROBE = "probe"
"""Key of the metadata of a file of weights."""


def save_json(content: Mapping[str, Any], report: Report, name: str) -> Artifact:
    """Write `<name>.json` into the attempt's folder."""
    return _written(f"{name}.json", report, lambda file: file.write_text(json.dumps(content)))


ANSWERS = "answers"
"""The artifact of what networks say of images that they were not trained on."""


def save_answers(by_split: Sequence[tuple[Split, Answers]], report: Report) -> Artifact:
    """Write the answers on splits of one data set into the attempt's folder.

    Its tensors: `images`, N places in the source; `probabilities`, N x classes, half precision.
    """
    images = torch.cat([torch.from_numpy(np.asarray(split.index, dtype=np.int64)) for split, _ in by_split])
    probabilities = torch.cat([torch.from_numpy(answers.probabilities) for _, answers in by_split]).half()
    return save_weights({"images": images, "probabilities": probabilities}, report, ANSWERS)


def save_checkpoint(file: Path, report: Report) -> Artifact:
    """Keep a copy of a training's checkpoint in the attempt's folder, for a trial that resumes it."""
    return _written(f"{CHECKPOINT}.pt", report, lambda copy: shutil.copyfile(file, copy))


def _written(name: str, report: Report, write: Callable[[Path], Any]) -> Artifact:
    """Write a file of the attempt's folder, named once it is whole; its path is relative to the experiment's."""
    file = report.folder / name
    temporary = file.with_suffix(".tmp")
    write(temporary)
    sha256, size = sha256_of(temporary), temporary.stat().st_size
    temporary.rename(file)
    return Artifact(file.relative_to(report.experiment).as_posix(), sha256, size)


def load_weights(experiment: Path, artifact: Artifact) -> dict[str, Tensor]:
    """Load the tensors of an artifact of that experiment, on the CPU.

    Raises:
        DataError: the file is missing, changed, or lies outside the experiment's folder.
    """
    file = file_of(experiment, artifact)
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise DataError(f"weights {file} are not a safetensors file: {error}", kind="unreadable") from error
    return tensors


def load_probe(experiment: Path, artifact: Artifact) -> Probe | None:
    """Return the probe of the network whose weights an artifact holds; None where there is none.

    Raises:
        DataError: as `load_weights` does, or the probe is damaged.
    """
    file = file_of(experiment, artifact)
    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(PROBE)
        return None if text is None else Probe.from_json(json.loads(text))
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"weights {file}: their probe cannot be read ({one_line(error)}); restore the file", kind="unreadable"
        ) from error


def file_of(experiment: Path, artifact: Artifact) -> Path:
    """Return the file of an artifact of that experiment, after checking that it has not changed.

    Raises:
        DataError: it is missing, changed, or lies outside the experiment's folder.
    """
    file = artifact.inside(experiment)
    if not file.is_file():
        raise DataError(
            f"weights {file} are missing; all workers must see the experiment's folder under the same path",
            kind="missing",
        )
    sha256 = sha256_of(file)
    if sha256 != artifact.sha256:
        raise DataError(
            f"weights {file} have changed: sha256 is {sha256[:12]}..., the journal says {artifact.sha256[:12]}...; "
            "restore the file, or run the trial that wrote it again",
            kind="changed",
        )
    return file


def sha256_of(file: Path) -> str:
    """Return the hexadecimal digest of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
