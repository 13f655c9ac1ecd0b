"""Folders of small photos for tests."""

import numpy as np
from PIL import Image


def photo(seed, size=(60, 40)):
    """A colourful picture of its own."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def folder_of_photos(folder, *, classes=("cat", "dog"), each=12):
    """Two classes of PNG files; returns the folder."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            photo(100 * number + index).save(folder / name / f"{index:02}.png")
    return folder
