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


def odd_files(folder):
    """Files of every kind that `InputRule` says something about; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    large = photo(1, (640, 480))
    turned = Image.Exif()
    turned[274] = 6
    large.save(folder / "turned.jpg", exif=turned)
    large.save(folder / "plain.jpeg", quality=95)
    large.convert("CMYK").save(folder / "cmyk.jpg")
    large.convert("P").save(folder / "palette.gif")
    large.convert("L").save(folder / "grey.tif", exif=turned)
    clear = photo(2, (37, 91))
    clear.putalpha(photo(3, (37, 91)).convert("L"))
    clear.save(folder / "clear.png")
    photo(4, (16, 16)).save(folder / "same.bmp")
    photo(5, (9, 7)).save(folder / "tiny.webp", lossless=True)
    return sorted(folder.iterdir())
