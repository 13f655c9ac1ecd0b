"""torch.export: a `.pt2` file that torch loads and runs without nasforge or the network's Python code."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from nasforge.core.errors import ExportError, one_line
from nasforge.exporters.network_folder import one_error
from nasforge.exporters.refusal import quiet, reason_of
from nasforge.exporters.verify import Predict

SUFFIX = ".pt2"


class TorchExport:
    """One file that torch loads and runs without nasforge."""

    def write(self, model: nn.Module, example: Tensor, path: Path) -> Path:
        """Write `model` as a torch.export archive, for any batch size.

        Args:
            model: in eval mode.
            example: a batch of inputs, N x C x H x W, on the model's device.
            path: where to, with or without `.pt2`.

        Returns:
            The file.

        Raises:
            ExportError: torch.export cannot trace the network, or the file cannot be written.
        """
        path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
        example = example if len(example) > 1 else torch.cat([example, example])  # a batch of 1 would be taken as fixed
        try:
            with quiet():
                program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # torch.export raises errors of many kinds, each about the network's code
            raise ExportError(
                f"torch_export: the network cannot be traced: {reason_of(error)}", kind="failed"
            ) from error
        archive = io.BytesIO()  # on a full disk torch's own file writer aborts the process
        torch.export.save(program, archive)
        with one_error(path):
            path.write_bytes(archive.getvalue())
        return path

    def reload(self, path: Path) -> Predict:
        """Return the file as a function from a batch of images to logits.

        Raises:
            ExportError: torch refuses the file.
        """
        try:
            module = torch.export.load(path).module()
        except Exception as error:  # as above
            raise ExportError(f"{path}: torch.export refuses it: {one_line(error, 400)}", kind="failed") from error

        def predict(images: Tensor) -> Tensor:
            logits: Tensor = module(images)
            return logits

        return predict

    def snippet(self, file: str, shape: tuple[int, int, int]) -> str:
        """Return code that loads and runs the file."""
        channels, height, width = shape
        return f'''\
import torch

network = torch.export.load("{file}").module()
images = torch.rand(4, {channels}, {height}, {width})  # yours: floats in 0..1
print(network(images).argmax(1))'''
