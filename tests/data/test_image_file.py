import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from expecting import raises
from PIL import Image

from nasforge.core.errors import DataError
from nasforge.data.image_file import DAMAGED_EXIF, FRAMES, TRANSPARENT, read_header, read_image, shown
from nasforge.data.input_rule import InputRule

GREY = (np.arange(24, dtype=np.uint8) * 10).reshape(6, 4)
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera that says orientation 2 to 8 stores an upright image."""


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("ending", "mode", "settings"),
    [
        ("jpg", "L", {"quality": 100}),
        ("jpg", "RGB", {"quality": 100}),
        ("png", "L", {}),
        ("png", "LA", {}),
        ("png", "1", {}),
        ("tif", "L", {}),
        ("tif", "RGB", {"compression": "tiff_lzw"}),
        ("webp", "RGB", {"lossless": True}),
    ],
)
def test_images_are_turned_upright(tmp_path, orientation, ending, mode, settings):
    upright = Image.fromarray(GREY).convert(mode)
    turn = STORED_AS.get(orientation)
    stored = upright.transpose(turn) if turn is not None else upright
    stored.save(tmp_path / f"a.{ending}", exif=exif(orientation), **settings)
    picture = read_image(tmp_path / f"a.{ending}", InputRule(1), None)
    assert picture.pixels.shape == (1, 6, 4)
    assert np.abs(picture.pixels[0].astype(int) - np.asarray(upright.convert("L"))).max() < 5
    assert picture.remarks == ()


def test_an_image_with_damaged_exif_data_is_read_as_it_is_stored(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=b"Exif\0\0nothing like it")
    picture = read_image(tmp_path / "a.png", InputRule(1), None)
    assert np.array_equal(picture.pixels[0], GREY)
    assert picture.remarks == (DAMAGED_EXIF,)


def palette():
    image = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).convert("P")
    image.putpalette([level for level in range(256) for _ in range(3)])
    return image


@pytest.mark.parametrize(
    ("name", "image", "settings"),
    [
        ("a.png", Image.new("RGBA", (4, 4), (9, 8, 7, 0)), {}),
        ("a.webp", Image.new("RGBA", (4, 4), (9, 8, 7, 0)), {"lossless": True}),
        ("a.tif", Image.new("RGBA", (4, 4), (9, 8, 7, 0)), {}),
        ("a.png", Image.new("LA", (4, 4), (9, 0)), {}),
        ("a.png", palette(), {"transparency": 0}),
        ("a.png", palette(), {"transparency": bytes([0, *[255] * 255])}),
        ("a.gif", palette(), {"transparency": 0}),
        ("a.png", Image.new("L", (4, 4), 9), {"transparency": 9}),
        ("a.png", Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}),
    ],
)
def test_transparent_pixels_are_laid_over_white(tmp_path, name, image, settings):
    image.save(tmp_path / name, **settings)
    picture = read_image(tmp_path / name, InputRule(3), None)
    assert picture.pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert picture.remarks == (TRANSPARENT,)


def test_half_transparent_pixels_are_mixed_and_opaque_ones_are_kept(tmp_path):
    pixels = np.full((1, 2, 4), 100, np.uint8)
    pixels[0, :, 3] = 255, 51
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", InputRule(1), None).pixels.tolist() == [[[100, 224]]]
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", InputRule(1), None).remarks == ()


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, name):
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 90, 180)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / name, InputRule(3), None)
    assert picture.pixels.max() == 0
    assert picture.remarks == (FRAMES,)


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ("unreadable", None, "empty")),
        (b"not a picture", ("unreadable", None, "damaged")),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", ("unreadable", None, "damaged")),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), ("unreadable", None, "damaged")),
        (png(60_000, 60_000), ("range", None, "3600 megapixels")),
        (png(2**31 - 1, 2**31 - 1), ("range", None, "megapixels")),
        (png(0, 5), ("unreadable",)),
        (png(5, 5), ("unreadable", None, "truncated")),
        (b"P5 4 4 65535\n" + bytes(32), ("unsupported", None, "mode I")),
    ],
)
def test_files_that_are_no_images_to_read(tmp_path, content, expected):
    (tmp_path / "a.png").write_bytes(content)
    with raises(DataError, *expected) as caught:
        read_image(tmp_path / "a.png", InputRule(3), None)
    assert str(tmp_path / "a.png") in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp", "a.tif", "a.ppm", "a.avif"])
def test_a_damaged_file_of_any_kind_is_an_error_that_names_it(tmp_path, name):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 9, 3), dtype=np.uint8))
    image.save(tmp_path / name, **({} if name in ("a.gif", "a.bmp", "a.ppm") else {"exif": exif(6)}))
    whole = (tmp_path / name).read_bytes()
    damaged = [whole[: len(whole) * eighths // 8] for eighths in range(1, 8)]
    for _ in range(20):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 6):
            content[place] = rng.integers(0, 256)
        damaged.append(bytes(content))
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in damaged:
            (tmp_path / name).write_bytes(content)
            try:
                read_header(tmp_path / name)
                read_image(tmp_path / name, InputRule(3), None)
            except DataError as error:
                assert str(error).startswith(f"image {tmp_path / name}")
                refused += 1
    assert refused


def test_reading_leaves_pillows_own_limit_alone(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    (tmp_path / "a.png").write_bytes(png(60_000, 60_000))
    with pytest.raises(DataError):
        read_header(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_path_is_shown_on_one_line():
    assert shown("a b/ü.png") == "a b/ü.png"
    assert shown("a\nb.png") == r"'a\nb.png'"
    assert shown("\udcff.png").isprintable()


@pytest.mark.timeout(30)
def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with raises(DataError, "unreadable", None, "pipe.png", "pipe, not a file"):
        read_image(tmp_path / "pipe.png", InputRule(3), (8, 8))
