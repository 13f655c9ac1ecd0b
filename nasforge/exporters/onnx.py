"""ONNX: one file that ONNX Runtime and many devices' compilers read."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasforge import __version__
from nasforge.core.errors import ExportError, one_line
from nasforge.exporters.network_folder import Description, Network
from nasforge.exporters.refusal import quiet, reason_of
from nasforge.exporters.verify import Predict

SUFFIX = ".onnx"


class Onnx:
    """One file for ONNX Runtime and many devices' compilers."""

    def write(self, model: nn.Module, example: Tensor, path: Path) -> Path:
        """Write `model` as one ONNX file, for any batch size; input `images`, output `logits`.

        The file of a `Network` has metadata: `class_names` and `input` (the rule by which files are read) as JSON
        texts, `calibration` likewise where there is one, and `nasforge_version`.

        Args:
            model: in eval mode.
            example: a batch of inputs, N x C x H x W, on the model's device.
            path: where to, with or without `.onnx`.

        Returns:
            The file.

        Raises:
            ExportError: a package is missing, or the network has an operation that ONNX cannot say.
        """
        _need("onnx", "onnxscript")
        path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
        example = example if len(example) > 1 else torch.cat([example, example])  # a batch of 1 would be taken as fixed
        try:
            with quiet():
                program = torch.onnx.export(
                    model,
                    (example,),
                    dynamo=True,
                    external_data=False,
                    input_names=["images"],
                    output_names=["logits"],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    verbose=False,
                )
        except Exception as error:  # the exporter, and onnxscript behind it, raise errors of many kinds
            raise ExportError(f"onnx: the network cannot be exported: {reason_of(error)}", kind="failed") from error
        if program is None:
            raise ExportError("onnx: torch.onnx.export gave no program; try another version of torch", kind="failed")
        if isinstance(model, Network):
            program.model.metadata_props.update(metadata_of(model.description))
        program.save(str(path), external_data=False)
        return path

    def reload(self, path: Path) -> Predict:
        """Return the file as a function from a batch of images to logits, run by ONNX Runtime on the CPU.

        Raises:
            ExportError: ONNX Runtime is missing or refuses the file.
        """
        return logits_of(session_of(path))

    def snippet(self, file: str, shape: tuple[int, int, int]) -> str:
        """Return code that runs the file."""
        channels, height, width = shape
        return f'''\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
images = np.random.rand(4, {channels}, {height}, {width}).astype(np.float32)  # yours: floats in 0..1
(logits,) = session.run(["logits"], {{"images": images}})
print(logits.argmax(1))'''


def metadata_of(about: Description) -> dict[str, str]:
    """Return what an exported file says of its network: how images are read, and what the outputs mean."""
    calibration = {"calibration": json.dumps(asdict(about.calibration))} if about.calibration else {}
    return {
        "class_names": json.dumps(about.class_names),
        "input": json.dumps(about.rule.to_json()),
        **calibration,
        "nasforge_version": __version__,
    }


def session_of(path: Path) -> Any:
    """Return an `onnxruntime.InferenceSession` of a file, on the CPU. Raises ExportError as `Onnx.reload` does."""
    _need("onnxruntime")
    import onnxruntime  # slow to import, and few commands need it

    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no parent of their own
        raise ExportError(f"{path}: ONNX Runtime refuses it: {one_line(error, 400)}", kind="failed") from error


def shape_of(path: Path, session: Any, classes: int) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a session takes.

    Raises:
        ExportError: it has other inputs or outputs than an export for so many classes.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    images, logits = inputs[0].shape, outputs[0].shape
    names = [[place.name for place in places] for places in (inputs, outputs)]
    sizes = (*images[1:], *logits[1:])
    if names != [["images"], ["logits"]] or (len(images), len(logits)) != (4, 2) or {*map(type, sizes)} != {int}:
        raise ExportError(
            f"{path}: takes {', '.join(names[0])} and gives {', '.join(names[1])}, expected images (N x C x H x W) and "
            "logits (N x classes); export the network again",
            kind="mismatch",
        )
    if sizes[3] != classes:
        raise ExportError(
            f"{path}: has {sizes[3]} outputs and names {classes} classes; export the network again", kind="mismatch"
        )
    channels, height, width = sizes[:3]
    return channels, height, width


def logits_of(session: Any) -> Predict:
    """Return an inference session as a function from a batch of images to logits."""

    def predict(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.cpu().numpy()})
        return torch.from_numpy(logits)

    return predict


def _need(*modules: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ExportError(
            f"onnx: {', '.join(missing)} is not installed; pip install {' '.join(missing)}", kind="missing"
        )
