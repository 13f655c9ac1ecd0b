"""`digits`: 1,797 handwritten digits of 8 x 8 pixels that scikit-learn brings along; no download, no file."""

from __future__ import annotations

import numpy as np

from nasforge.data.decoded import Allocate, Decoded, Source, resized
from nasforge.settings.experiment import DataConfig


def find(config: DataConfig) -> Source:
    """Return the digits (Alpaydin & Kaynak 1998, UCI), grey, their 17 levels scaled to 0..255."""

    def read(allocate: Allocate) -> Decoded:
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        grey = resized(grey, config.resolution)
        images = allocate(grey.shape)
        images[:] = grey
        names = tuple(str(digit) for digit in digits.target_names)
        return Decoded(images, digits.target.astype(np.int64), {"train": len(images)}, names)

    return Source(None, read)
