"""Safetensors and the architecture as JSON: a network folder, for `nasforge.load` and for other programs."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nasforge.core.errors import ExportError
from nasforge.core.layout import WEIGHTS
from nasforge.exporters.network_folder import Network, load, write_network
from nasforge.exporters.verify import Predict


class Safetensors:
    """The weights and the architecture, for `nasforge.load` and other programs."""

    def write(self, model: Network, example: Tensor, path: Path) -> Path:
        """Write `weights.safetensors` and `network.json` into the folder of `path`; `nasforge.load` reads that folder.

        Args:
            model: a loaded network; others have no description to write.
            example: not needed, the format has no shapes of batches.
            path: a name in the folder to write to.

        Returns:
            The file with the weights.

        Raises:
            ExportError: `model` is not a `Network`.
        """
        if not isinstance(model, Network):
            raise ExportError(
                f"safetensors: needs a network from nasforge.load, got {type(model).__name__}", kind="type"
            )
        write_network(path.parent, model, model.description)
        return path.parent / WEIGHTS

    def reload(self, path: Path) -> Predict:
        """Return the network in the folder of `path`, from a batch of images to logits.

        Raises:
            ExportError: as `load` does.
        """
        return load(path.parent)

    def snippet(self, file: str, shape: tuple[int, int, int]) -> str:
        """Return code that loads and runs the folder."""
        channels, height, width = shape
        return f"""\
import nasforge
import torch

network = nasforge.load(".")  # the folder with network.json and weights.safetensors
images = torch.rand(4, {channels}, {height}, {width})  # yours: floats in 0..1
print([network.class_names[index] for index in network(images).argmax(1)])"""
