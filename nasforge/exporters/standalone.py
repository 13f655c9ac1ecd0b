"""Name the class of image files: python predict.py photo.jpg folder/ --json

Needs onnxruntime, numpy and Pillow alone. Reads `model.onnx` beside this file, or the one of --model; the classes, the
input rule and the calibration are in its metadata. Exit code: 0, 1 if an image failed, 2 if there is nothing to do.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import ExifTags, Image, UnidentifiedImageError

ENDINGS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
}
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
)
LARGEST_PIXELS = 178_956_970
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def formats() -> list[str]:
    """Return the formats that are read, of those that this Pillow knows."""
    Image.init()
    return [name for name in ENDINGS if name in Image.OPEN]


def read_image(file: Path, rule: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Return the pixels of an image file by the input rule of a model, uint8, C x height x width.

    Raises:
        OSError, ValueError, SyntaxError: the file is not an image that can be read.
    """
    if stat.S_ISFIFO(file.stat().st_mode):
        raise OSError("it is a pipe, not a file")  # opening it would wait for a writer
    with file.open("rb") as stream, Image.open(stream, formats=formats()) as image:
        if image.width * image.height > LARGEST_PIXELS:
            raise ValueError(f"the image is too large ({image.width} x {image.height} pixels)")
        if image.mode not in MODES:
            raise ValueError(f"pixels of mode {image.mode}, expected 8 bits per channel")
        draft = rule["jpeg_draft"]
        if draft and image.format in ("JPEG", "MPO"):
            image.draft(None, (draft * width, draft * height))
        image.load()
        upright: Image.Image = image
        try:
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # damaged EXIF data; the image itself is whole
            turn = None
        if turn is not None:
            upright = image.transpose(turn)
        opaque = over_background(upright, tuple(rule["background"]))
        plain = opaque.convert("L" if rule["channels"] == 1 else "RGB")
        if (plain.height, plain.width) != (height, width):
            box = (0, 0, plain.width, plain.height)
            if rule["resize"] == "shorter_side_centre_crop":
                side = min(plain.size)
                left, top = (plain.width - side) // 2, (plain.height - side) // 2
                box = (left, top, left + side, top + side)
            plain = plain.resize((width, height), Image.Resampling[rule["filter"].upper()], box=box)
        pixels = np.array(plain, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def over_background(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """Return an image laid over a colour, if any pixel is transparent."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    if np.asarray(layer.getchannel("A")).min() == 255:
        return image
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*colour, 255)), layer)


def predict(session: onnxruntime.InferenceSession, files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the answer of a model for each file: class and probabilities, or the error."""
    metadata = session.get_modelmeta().custom_metadata_map
    classes, rule = json.loads(metadata["class_names"]), json.loads(metadata["input"])
    calibration = json.loads(metadata.get("calibration", "null")) or {"temperature": 1.0, "unsure_below": 0.0}
    _, _, height, width = session.get_inputs()[0].shape
    for file in files:
        try:
            pixels = read_image(file, rule, height, width)
        except UnidentifiedImageError:
            yield {"file": str(file), "error": f"it is empty, damaged, or not one of {', '.join(ENDINGS)}"}
            continue
        except Exception as error:  # Pillow's decoders raise errors of many kinds for damaged files
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield {"file": str(file), "error": " ".join(reason.split()) or type(error).__name__}
            continue
        (logits,) = session.run(["logits"], {"images": pixels[None].astype(np.float32) / 255})
        scaled = logits[0].astype(np.float64) / calibration["temperature"]
        powers = np.exp(scaled - scaled.max())
        probabilities = (powers / powers.sum()).tolist()
        best = max(range(len(classes)), key=probabilities.__getitem__)
        yield {
            "file": str(file),
            "class": classes[best],
            "probability": probabilities[best],
            "probabilities": dict(zip(classes, probabilities, strict=True)),
            **({"unsure": probabilities[best] < calibration["unsure_below"]} if "calibration" in metadata else {}),
        }


def files_of(places: Iterable[str]) -> Iterator[Path]:
    """Yield the files that are named, and the images below each folder."""
    for place in map(Path, places):
        if os.path.isdir(place):  # noqa: PTH112  (a Path raises where it may not look, or the name is too long)
            yield from sorted(images_below(place, frozenset()))
        else:
            yield place


def images_below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the images below a folder, without what is hidden or the system's; a link to a folder above ends there."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    for place in () if here in above else folder.iterdir():
        if place.name.startswith(".") or place.name.casefold() in SYSTEM_FOLDERS:
            continue
        if place.is_dir():
            yield from images_below(place, above | {here})
        elif any(place.suffix.lower() in some for some in ENDINGS.values()):
            yield place


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Name the class of image files.")
    parser.add_argument("images", nargs="+", help="files, or folders of images")
    parser.add_argument("--model", default=Path(__file__).with_name("model.onnx"), help="default: model.onnx beside it")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args()
    if any(not place.strip() for place in options.images):
        parser.error("an image's path is empty; name files or folders of images")
    warnings.simplefilter("ignore")  # Pillow's, about metadata that nothing uses
    Image.MAX_IMAGE_PIXELS = None  # read_image has a limit of its own
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no UTF-8
    try:
        files = list(files_of(options.images))
    except OSError as error:  # a folder that may not be read
        reason = error.strerror or str(error)
        print(f"{error.filename} cannot be read ({reason}); allow to read it, or name other folders", file=sys.stderr)
        return 2
    try:
        session = onnxruntime.InferenceSession(str(options.model), providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        json.loads(metadata["class_names"]), json.loads(metadata["input"])
    except Exception as error:  # onnxruntime's errors have no common class
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        print(f"{options.model} cannot be used ({reason}); name an exported model with --model", file=sys.stderr)
        return 2
    answers = list(predict(session, files))
    if options.json:
        print(json.dumps(answers, ensure_ascii=False, indent=1))
    else:
        for answer in answers:
            answer_text = answer.get("error") or f"{answer['class']} {answer['probability']:.3f}"
            print(f"{answer['file']}: {answer_text}{' (unsure)' if answer.get('unsure') else ''}")
    if not answers:
        print("there are no images", file=sys.stderr)
        return 2
    return int(any("error" in answer for answer in answers))


if __name__ == "__main__":
    sys.exit(main())
