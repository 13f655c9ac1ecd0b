"""One image file and its pixels: the formats that are read, upright orientation, transparency over white."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from nasforge.core.errors import DataError, one_line
from nasforge.data.input_rule import CENTRE_CROP, InputRule

FORMATS: dict[str, tuple[str, ...]] = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
"""Pillow's names of the formats that are read, and their file endings.

A file is recognised by its content among these alone: Pillow also knows formats that call other programs (EPS).
"""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LARGEST_PIXELS = 178_956_970
"""Pixels of the largest image that is read, as Pillow has it: a larger one may be made to exhaust the memory."""
TRANSPARENT = "with transparent pixels: they are laid over white"
FRAMES = "with several frames: only the first is read"
DAMAGED_EXIF = "with damaged EXIF data: their orientation is unknown, they are read as they are stored"

_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
# As ImageOps.exif_transpose has them, which also rewrites the EXIF data, so it fails where these are damaged.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_LIMIT_LOCK = threading.Lock()
_READERS = 8
"""Threads that decode at the same time, at most: Pillow's decoders run outside of Python's lock."""
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image.

    Attributes:
        pixels: uint8, C x H x W.
        remarks: what a user should know about how it was read, of `TRANSPARENT`, `FRAMES`, `DAMAGED_EXIF`.
    """

    pixels: np.ndarray
    remarks: tuple[str, ...]


def shown(path: Path | str) -> str:
    """Return a path for a message: on one line, and printable whatever bytes its name has."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def why_unreadable(file: Path, error: DataError) -> str:
    """Return the reason of an error about an image, for a message that names the file already."""
    return str(error).removeprefix(f"image {shown(file)} ").rpartition("; ")[0] or str(error)


def read_header(file: Path) -> tuple[tuple[int, int], str]:
    """Return width and height as they are stored (before the image is turned upright), and Pillow's mode.

    Raises:
        DataError: the file is not an image of a known format, or too large, or has more than 8 bits per channel.
    """
    with _opened(file) as image:
        return image.size, image.mode


def read_image(file: Path, rule: InputRule, size: tuple[int, int] | None) -> Picture:
    """Decode an image by a rule. Training, `nasforge predict` and exported scripts read the same bits.

    Args:
        file: the image.
        rule: how it becomes pixels.
        size: height and width to resize to; None keeps the size.

    Raises:
        DataError: the file cannot be read, or is damaged.
    """
    remarks = []
    with _opened(file) as opened:
        try:
            if rule.jpeg_draft and size and opened.format in ("JPEG", "MPO"):
                opened.draft(None, (rule.jpeg_draft * size[1], rule.jpeg_draft * size[0]))
            opened.load()
            image, damaged = _upright(opened)
            image, transparent = _over_background(image, rule.background)
            image = image.convert("L" if rule.channels == 1 else "RGB")
            pixels = np.array(fitted(image, rule, size), np.uint8)
        except Exception as error:  # Pillow's decoders raise errors of a dozen kinds for damaged files
            reason = one_line(error) or type(error).__name__
            raise DataError(
                f"image {shown(file)} is corrupt ({reason}); repair or remove it", kind="unreadable"
            ) from error
        if damaged:
            remarks.append(DAMAGED_EXIF)
        if transparent:
            remarks.append(TRANSPARENT)
        if _has_frames(opened):
            remarks.append(FRAMES)
    return Picture(pixels[None] if rule.channels == 1 else np.moveaxis(pixels, -1, 0), tuple(remarks))


def thumbnail(file: Path, edge: int) -> Image.Image:
    """Return a small picture of an image as training sees it: upright, over white, of at most `edge` pixels a side.

    Raises:
        DataError: the file is not an image that is read.
    """
    with _opened(file) as opened:
        opened.draft("RGB", (2 * edge, 2 * edge))
        try:
            opened.load()
            image, _ = _over_background(_upright(opened)[0], InputRule(3).background)
            small = image.convert("RGB")
            small.thumbnail((edge, edge))
        except Exception as error:  # as in read_image
            raise DataError(f"image {shown(file)} is corrupt ({one_line(error)})", kind="unreadable") from error
    return small


def fitted(image: Image.Image, rule: InputRule, size: tuple[int, int] | None) -> Image.Image:
    """Return an upright image at `size` (height, width), resized and cut as the rule says."""
    if size is None or (image.height, image.width) == size:
        return image
    height, width = size
    box = (0, 0, image.width, image.height)
    if rule.resize == CENTRE_CROP:
        if height != width:
            raise ValueError(f"{CENTRE_CROP} gives squares, got {height} x {width} pixels")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
    return image.resize((width, height), Image.Resampling[rule.filter.upper()], box=box)


def in_threads(read: Callable[[Path], _Answer], files: Iterable[Path], workers: int) -> Iterator[_Answer]:
    """Yield `read(file)` of every file in their order; few are decoded ahead, so memory stays small.

    Args:
        read: decodes one file.
        files: what to read.
        workers: threads that decode at the same time; more than 8 are not used.
    """
    workers = min(workers, _READERS)
    with warnings.catch_warnings():  # threads share the warnings' filters: the outermost block restores them
        warnings.simplefilter("ignore")
        if workers < 2:
            yield from map(read, files)
            return
        with ThreadPoolExecutor(workers) as pool:
            rest = iter(files)
            waiting = [pool.submit(read, file) for file in islice(rest, 4 * workers)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(read, file) for file in islice(rest, 1)]


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Open an image and check its header; Pillow's warnings are about metadata that are not used, so they are off.

    Pillow gets the open file, not its name: it maps a named TIFF into memory, and then mixes up height and width if the
    image is stored on its side.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if file.is_fifo():  # to open it waits for a writer, maybe forever
                raise OSError("it is a pipe, not a file")
            stream = file.open("rb")
            try:
                image = _recognised(stream)
            except BaseException:
                stream.close()
                raise
        except Exception as error:  # as in read_image
            raise DataError(
                f"image {shown(file)} cannot be read ({_reason(file, error)}); repair or remove it", kind="unreadable"
            ) from error
        with stream, image:
            pixels = image.width * image.height
            if pixels > LARGEST_PIXELS:
                raise DataError(
                    f"image {shown(file)} is too large to read ({pixels / 1e6:.0f} megapixels); shrink or remove it "
                    f"(up to {LARGEST_PIXELS / 1e6:.0f} megapixels are read)",
                    kind="range",
                )
            if not pixels:
                raise DataError(
                    f"image {shown(file)} has {image.width} x {image.height} pixels; remove it", kind="empty"
                )
            if image.mode not in _EIGHT_BIT:
                raise DataError(
                    f"image {shown(file)} has pixels of mode {image.mode}, allowed: 8 bits per channel; convert it",
                    kind="unsupported",
                )
            yield image


def _recognised(stream: BinaryIO) -> Image.Image:
    """Read the header of an image; Pillow's error has no size in megapixels, so its own limit is off."""
    with _LIMIT_LOCK:  # the limit is one variable for all threads
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(stream, formats=tuple(FORMATS))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _reason(file: Path, error: Exception) -> str:
    """Return in a few words why a file cannot be opened as an image."""
    if isinstance(error, UnidentifiedImageError):
        kinds = ", ".join(FORMATS)
        return f"it is damaged, or not one of {kinds}" if file.stat().st_size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Turn a loaded image as its EXIF data say; the flag tells that these cannot be read."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of a dozen kinds, as for pixels; the image itself is whole
        return image, True
    return (image.transpose(turn) if turn is not None else image), False


def _over_background(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """Lay an image over a colour; the flag tells whether any pixel is transparent."""
    if not image.has_transparency_data:
        return image, False
    layer = image.convert("RGBA")
    alpha = np.asarray(layer.getchannel("A"))
    if alpha.min() == 255:
        return image, False
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer), True


def _has_frames(image: Image.Image) -> bool:
    """Return whether an image is an animation or a stack; a camera's MPO file holds previews of the same picture."""
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the first frame is whole, what follows it is damaged
        return False
