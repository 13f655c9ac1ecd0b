"""A first look at each image: can it be read, its size, grey or coloured, and which images nearly repeat each other.

Near duplicates are images that a network would learn by heart: the same picture saved again, resized, or brightened, or
the next frame of a video. Their difference hashes agree in almost all bits (Neal Krawetz 2013,
https://www.hackerfactor.com/blog/index.php?/archives/529-Kind-of-Like-That.html), and so do their thumbnails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nasforge.core.errors import DataError
from nasforge.data.image_file import read_header, read_image, why_unreadable
from nasforge.data.image_folder import NO_FILE
from nasforge.data.input_rule import InputRule

SIDE = 32
"""Pixels of a thumbnail's side."""
MOST_BITS = 6
"""Bits of 64 in which the difference hashes of near duplicates differ, at most."""
LEAST_CORRELATION = 0.98
"""Least correlation of the grey thumbnails of near duplicates. Measured: a copy as JPEG of quality 60, at half the size
or brighter by a tenth has .99 and more on photos; of 300 photos of blood cells 3 pairs are above,
of 3,000 of CIFAR-10 4."""
_LEAST_OF_SMALL = 0.99
"""The same of images smaller than a thumbnail, which have less that could differ: 8 pairs of 1,797 digits are above."""
_MOST_COLOUR = 25.0
"""Difference of the mean colour of a quarter of near duplicates, in levels of 255, at most."""
_FLAT = 2.0
"""Thumbnails with a smaller standard deviation show nothing that could be compared."""
_GREY = 2
"""Levels in which the channels of a grey image may differ: JPEG rounds."""
_NEIGHBOURS = 64
"""Images that each image is compared with, at most, of those whose hash agrees in a band."""
_AT_ONCE = 4096
_RULE = InputRule(3, jpeg_draft=2)


@dataclass(frozen=True, eq=False)
class Look:
    """Facts from one look at an image.

    Attributes:
        digest: SHA-256 of the file, or of the pixels of an array.
        shorter_side: in pixels.
        grey: whether its channels are equal.
        thumbnail: uint8, SIDE x SIDE, grey.
        colour: float32, 12 numbers: mean red, green and blue of its quarters.
    """

    digest: str
    shorter_side: int
    grey: bool
    thumbnail: np.ndarray
    colour: np.ndarray


def look_at_file(file: Path) -> Look | str:
    """Return what a look at an image file tells, or why it cannot be read."""
    try:
        if not file.is_file():
            return NO_FILE if file.is_symlink() or file.exists() else "there is no such file"
        size, _ = read_header(file)
        picture = read_image(file, _RULE, (SIDE, SIDE))
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except DataError as error:
        return why_unreadable(file, error)
    except OSError as error:
        return error.strerror or type(error).__name__
    return next(_looks([digest], min(size), picture.pixels[None]))


def look_at_arrays(images: np.ndarray, rows: Sequence[int]) -> Iterator[Look]:
    """Yield what a look at each of some images of an array tells.

    Args:
        images: uint8, M x C x H x W; may be memory-mapped.
        rows: which of them, in this order.
    """
    channels, height, width = images.shape[1:]
    for start in range(0, len(rows), _AT_ONCE):
        some = np.ascontiguousarray(images[np.asarray(rows[start : start + _AT_ONCE])])
        before = repr(some.shape[1:]).encode()
        digests = [hashlib.sha256(before + pixels.tobytes()).hexdigest() for pixels in some]
        bands = some[:, :3] if channels >= 3 else some[:, :1]
        if (height, width) != (SIDE, SIDE):
            bands = np.stack([_thumbnail(pixels) for pixels in bands])
        yield from _looks(digests, min(height, width), np.repeat(bands, 3, axis=1) if bands.shape[1] == 1 else bands)


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return an image, uint8, C x H x W, as C x SIDE x SIDE."""
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return small[None] if small.ndim == 2 else np.moveaxis(small, -1, 0)


def _looks(digests: Sequence[str], shorter_side: int, pixels: np.ndarray) -> Iterator[Look]:
    """Describe thumbnails, uint8, N x 3 x SIDE x SIDE."""
    levels = pixels.astype(np.int16)
    differences: np.ndarray = np.abs(np.diff(levels, axis=1)).max((1, 2, 3))
    grey = (differences <= _GREY).tolist()
    half = SIDE // 2
    colours = levels.reshape(-1, 3, 2, half, 2, half).mean((3, 5), dtype=np.float32).reshape(len(levels), -1)
    thumbnails = levels.mean(1).round().astype(np.uint8)
    for digest, is_grey, thumbnail, colour in zip(digests, grey, thumbnails, colours, strict=True):
        yield Look(digest, shorter_side, is_grey, thumbnail, colour)


def exact_duplicates(looks: Iterable[Look]) -> list[list[int]]:
    """Return sets of positions with equal content, in order of their first image."""
    places: dict[str, list[int]] = {}
    for number, look in enumerate(looks):
        places.setdefault(look.digest, []).append(number)
    return [same for same in places.values() if len(same) > 1]


def near_duplicates(looks: Sequence[Look]) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions that nearly repeat each other; of equal images only the first is compared."""
    first: dict[str, int] = {}
    for number, look in enumerate(looks):
        first.setdefault(look.digest, number)
    numbers = np.array(list(first.values()), np.int64)
    if len(numbers) < 2:
        return
    thumbnails = np.stack([looks[number].thumbnail for number in numbers]).reshape(len(numbers), -1)
    pieces = np.split(thumbnails, range(_AT_ONCE, len(thumbnails), _AT_ONCE))
    varied = np.concatenate([piece.std(1) for piece in pieces]) >= _FLAT
    numbers, thumbnails = numbers[varied], thumbnails[varied]
    if len(numbers) < 2:
        return
    hashes = np.array([_hash(looks[number].thumbnail) for number in numbers], np.uint64)
    colours = np.stack([looks[number].colour for number in numbers])
    small = np.array([looks[number].shorter_side < SIDE for number in numbers])
    pairs = _candidates(hashes, _coarse(thumbnails))
    for start in range(0, len(pairs), _AT_ONCE):
        a, b = pairs[start : start + _AT_ONCE].T
        alike = _correlation(thumbnails[a], thumbnails[b]) >= np.where(
            small[a] | small[b], _LEAST_OF_SMALL, LEAST_CORRELATION
        )
        alike &= np.abs(colours[a] - colours[b]).max(1) <= _MOST_COLOUR
        yield from zip(numbers[a[alike]].tolist(), numbers[b[alike]].tolist(), strict=True)


def _hash(thumbnail: np.ndarray) -> int:
    """Return the difference hash: for 8 x 8 places, is the pixel brighter than its left neighbour? 64 bits."""
    small = np.asarray(Image.fromarray(thumbnail).resize((9, 8), Image.Resampling.BILINEAR), np.int16)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    """Return thumbnails of 8 x 8 pixels, N x 64, with mean 0 and length 1: their products are correlations."""
    block = SIDE // 8
    means = thumbnails.reshape(len(thumbnails), 8, block, 8, block).mean((2, 4), dtype=np.float32).reshape(-1, 64)
    means -= means.mean(1, keepdims=True)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    coarse: np.ndarray = means / np.maximum(lengths, 1e-6)
    return coarse


def _candidates(hashes: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """Return pairs of positions, P x 2, that are worth a comparison of their thumbnails.

    Their hashes nearly agree, and agree in one of eight bands of 16 bits; and so do their coarse thumbnails. Hashes are
    sorted by a band, so that those that agree in it are neighbours; each is compared with the next ones.
    """
    by_band = []
    for band in _bands():
        keys = hashes & band
        order = np.lexsort((hashes, keys))
        keys, sorted_hashes = keys[order], hashes[order]
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            same = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(same):
                break
            near = same[np.bitwise_count(sorted_hashes[same] ^ sorted_hashes[same + step]) <= MOST_BITS]
            pairs = np.sort(np.stack([order[near], order[near + step]], 1), axis=1)
            alike = [
                (coarse[piece[:, 0]] * coarse[piece[:, 1]]).sum(1) >= LEAST_CORRELATION
                for piece in np.split(pairs, range(_AT_ONCE, len(pairs), _AT_ONCE))
            ]
            by_band.append(pairs[np.concatenate(alike)])
    return np.unique(np.concatenate(by_band), axis=0) if by_band else np.empty((0, 2), np.int64)


def _bands() -> Iterator[np.uint64]:
    """Yield masks of 16 bits of a hash: two of its eight rows, then two of its eight columns."""
    for number in range(4):
        yield np.uint64(0xFFFF << 16 * number)
        yield np.uint64(int(f"{3 << 2 * number:08b}" * 8, 2))


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlation of each row with its partner, N x D and N x D -> N."""
    centred = [rows - rows.mean(1, keepdims=True) for rows in (first.astype(np.float32), second.astype(np.float32))]
    sums = [(centred[a] * centred[b]).sum(1) for a, b in ((0, 1), (0, 0), (1, 1))]
    correlations: np.ndarray = sums[0] / np.sqrt(sums[1] * sums[2])
    return correlations
