"""A split of a data set: images as bytes, labels, mean and deviation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from nasforge.core.gpu_share import share_of_card

COLOUR_IMAGES = 10_000
"""Most images that the principal components of the colours are computed from."""
RESIDENT_BYTES = 2 * 1024**3
"""Splits up to this size are kept on the training device; larger ones are streamed from the memory-mapped cache."""

_READERS = 4
"""Most threads that read the batches of a streamed split."""
_BATCHES_AHEAD = 2
"""Batches that each of them reads ahead."""

_HOLDERS: WeakSet[Split] = WeakSet()
"""Splits of this process that have been put on a device."""


def _room_bytes(device: torch.device) -> float:
    """Return what all splits of this process may take of a GPU: a tenth of the memory that it may use, up to 2 GiB."""
    whole = torch.cuda.get_device_properties(device).total_memory
    return min(RESIDENT_BYTES, whole * share_of_card() / 10)


def _held_bytes(device: torch.device) -> int:
    """Return what the splits of this process take of a device."""
    places = {
        id(split._resident): split._resident for split in _HOLDERS
    }  # a split that is normalised otherwise shares it
    kept = (place[str(device)] for place in places.values() if str(device) in place)
    return sum(tensor.nbytes for pair in kept for tensor in pair)


@dataclass(frozen=True, eq=False)
class Split:
    """Some images of a data set, `N` of them.

    Attributes:
        pixels: uint8, all images of the source, M x C x H x W; may be memory-mapped.
        index: rows of the images of this split, N whole numbers.
        labels: int64, N class numbers.
        classes: number of classes.
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
        """Numbers of the classes without images in this split."""
        return tuple((self.labels.bincount(minlength=self.classes) == 0).nonzero().flatten().tolist())

    @property
    def streamed(self) -> bool:
        """True if the split is too large to be kept whole on a device."""
        return len(self) * int(np.prod(self.shape)) > RESIDENT_BYTES

    def fits_on(self, device: torch.device) -> bool:
        """Return whether the split is or can be kept on a device. On a GPU all splits of a process share a limit."""
        if self.streamed or device.type != "cuda" or str(device) in self._resident:
            return not self.streamed
        return _held_bytes(device) + len(self) * (int(np.prod(self.shape)) + 8) <= _room_bytes(device)

    def release(self) -> None:
        """Free the copies on devices."""
        self._resident.clear()

    def take(self, positions: Tensor | slice) -> Tensor:
        """Return the images at these positions of the split, uint8, in memory."""
        where = positions.cpu().numpy() if isinstance(positions, Tensor) else positions
        return torch.from_numpy(np.ascontiguousarray(self.pixels[self.index[where]]))

    def subset(self, positions: Tensor) -> Split:
        """Return the split of these positions, normalised as this one."""
        where = positions.cpu()
        return replace(self, index=self.index[where.numpy()], labels=self.labels[where], _resident={})

    @cached_property
    def colour_axes(self) -> tuple[tuple[float, ...], ...]:
        """Principal components of the colours, each times its eigenvalue: three rows of three numbers.

        Of the covariance of all pixels of this split, scaled to 0..1; of `COLOUR_IMAGES` evenly spaced images where
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
        yield from self._streamed(torch.split(order, batch_size), device)

    def batch(self, positions: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the images (uint8) and labels at these positions on `device`: one batch, read at once."""
        if self.fits_on(device):
            images, labels = self.on(device)
            where = positions.to(device)
            return images[where], labels[where]
        return _moved(self._read(positions, device), device)

    def _streamed(self, pieces: Sequence[Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches at these positions, which threads read ahead.

        Threads, since NumPy copies without the interpreter's lock, and processes would have to be forked anew for every
        pass, from a process that may have a CUDA context and a network connection.
        """
        workers = min(_READERS, torch.get_num_threads())
        ahead: deque[Future[tuple[Tensor, Tensor]]] = deque()
        pool = ThreadPoolExecutor(workers, "batches")
        try:
            for piece in pieces:
                ahead.append(pool.submit(self._read, piece, device))
                if len(ahead) > _BATCHES_AHEAD * workers:
                    yield _moved(ahead.popleft().result(), device)
            while ahead:
                yield _moved(ahead.popleft().result(), device)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, positions: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the images and labels at these positions in main memory, for a GPU in memory that it can copy from."""
        images, labels = self.take(positions), self.labels[positions]
        return (images.pin_memory(), labels.pin_memory()) if device.type == "cuda" else (images, labels)


def _moved(batch: tuple[Tensor, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = batch
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
