"""A part of a data set: images as bytes, labels, and how to normalise them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nasforge.core.gpu_share import share_of_card

COLOUR_IMAGES = 10_000
"""Most images that the principal components of the colours are computed from."""
RESIDENT_BYTES = 2 * 1024**3
"""Parts up to this size lie whole on the training device; larger ones are streamed from the memory-mapped cache."""

_HOLDERS: WeakSet[Part] = WeakSet()
"""Parts of this process that have been put on a device."""


def _room_bytes(device: torch.device) -> float:
    """Return what all parts of this process may take of a GPU: a tenth of the memory that it may use, up to 2 GiB."""
    whole = torch.cuda.get_device_properties(device).total_memory
    return min(RESIDENT_BYTES, whole * share_of_card() / 10)


def _held_bytes(device: torch.device) -> int:
    """Return what the parts of this process take of a device."""
    places = {id(part._resident): part._resident for part in _HOLDERS}  # a part that is normalised otherwise shares it
    kept = (place[str(device)] for place in places.values() if str(device) in place)
    return sum(tensor.nbytes for pair in kept for tensor in pair)


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a data set, `N` of them.

    Attributes:
        pixels: uint8, all images of the source, M x C x H x W; may be memory-mapped.
        index: which of them belong to this part, N whole numbers.
        labels: int64, N class numbers.
        classes: how many there are.
        mean: of the training split per channel, images scaled to 0..1.
        std: likewise.
    """

    pixels: np.ndarray
    index: np.ndarray
    labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    _resident: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_resident": {}}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def absent(self) -> tuple[int, ...]:
        """Numbers of the classes without images in this part."""
        return tuple((self.labels.bincount(minlength=self.classes) == 0).nonzero().flatten().tolist())

    @property
    def streamed(self) -> bool:
        """True if the part is too large to be kept whole on a device."""
        return len(self) * int(np.prod(self.shape)) > RESIDENT_BYTES

    def fits_on(self, device: torch.device) -> bool:
        """Return whether the part lies whole on a device, or may: on a GPU all parts of a process share a limit."""
        if self.streamed or device.type != "cuda" or str(device) in self._resident:
            return not self.streamed
        return _held_bytes(device) + len(self) * (int(np.prod(self.shape)) + 8) <= _room_bytes(device)

    def release(self) -> None:
        """Forget what lies on devices."""
        self._resident.clear()

    def take(self, positions: Tensor | slice) -> Tensor:
        """Return the images at these positions of the part, uint8, in memory."""
        where = positions.cpu().numpy() if isinstance(positions, Tensor) else positions
        return torch.from_numpy(np.ascontiguousarray(self.pixels[self.index[where]]))

    def subset(self, positions: Tensor) -> Part:
        """Return the part of these positions, normalised as this one."""
        where = positions.cpu()
        return replace(self, index=self.index[where.numpy()], labels=self.labels[where], _resident={})

    @cached_property
    def colour_axes(self) -> tuple[tuple[float, ...], ...]:
        """Principal components of the colours, each times its eigenvalue: three rows of three numbers.

        Of the covariance of all pixels of this part, scaled to 0..1; of `COLOUR_IMAGES` evenly spaced images where
        there are more. The same images give the same numbers in every process, so checkpoints do not hold them.
        """
        rows = self.index[np.linspace(0, len(self) - 1, min(len(self), COLOUR_IMAGES)).round().astype(np.int64)]
        sums, products, count = np.zeros(3), np.zeros((3, 3)), 0
        for start in range(0, len(rows), 256):
            pixels = self.pixels[rows[start : start + 256]].transpose(1, 0, 2, 3).reshape(3, -1) / 255.0
            sums, products, count = sums + pixels.sum(1), products + pixels @ pixels.T, count + pixels.shape[1]
        mean = sums / count
        values, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(3)])  # either is an eigenvector
        return tuple(map(tuple, (vectors * signs * np.maximum(values, 0)).T.tolist()))

    @property
    def images(self) -> Tensor:
        """All images, uint8, N x C x H x W, in main memory."""
        return self.on(torch.device("cpu"))[0]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return all images and labels on `device`, which keeps them for the next trial."""
        key = str(device)
        if key not in self._resident:
            _HOLDERS.add(self)
            self._resident[key] = (self.take(slice(None)).to(device), self.labels.to(device))
        return self._resident[key]

    def batches(self, order: Tensor, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (uint8) and labels on `device`, `batch_size` at a time, in this order of positions."""
        if self.fits_on(device):
            images, labels = self.on(device)
            # one copy for all batches: a copy from pageable memory waits until the GPU has finished its steps
            for piece in torch.split(order.to(device), batch_size):
                yield images[piece], labels[piece]
            return
        pieces = torch.split(order, batch_size)
        workers = min(4, torch.get_num_threads())
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Pieces(self),
            batch_sampler=[piece.tolist() for piece in pieces],
            collate_fn=_as_is,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # of its own: the default one belongs to the training and its checkpoints
        )
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class _Pieces(Dataset[tuple[Tensor, Tensor]]):
    """A part as DataLoader workers read it: whole batches at once."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __len__(self) -> int:
        return len(self.part)

    def __getitems__(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        where = torch.tensor(positions)
        return self.part.take(where), self.part.labels[where]


def _as_is(batch: Any) -> Any:
    return batch
