"""The rule that turns an image file into the pixels of a network's input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SQUASH = "squash"
"""Resize to the network's height and width, whatever the aspect of the image."""
CENTRE_CROP = "shorter_side_centre_crop"
"""Resize the shorter side and cut the centre out, so that the aspect is kept."""
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class InputRule:
    """Conversion of an image file to pixels.

    Attributes:
        channels: 1 for grey, 3 for red, green and blue.
        resize: `SQUASH` or `CENTRE_CROP`.
        filter: Pillow's name of the resampling filter, in lower case.
        background: red, green and blue of the colour below transparent pixels.
        exif: True turns an image upright as its EXIF data say.
        jpeg_draft: a JPEG is decoded at the lowest resolution that still has this many times the pixels of the input
            on each side; 0 decodes it whole.
    """

    channels: int
    resize: str = SQUASH
    filter: str = "bilinear"
    background: tuple[int, int, int] = WHITE
    exif: bool = True
    jpeg_draft: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("resize", self.resize, (SQUASH, CENTRE_CROP)),
            ("filter", self.filter, ("bilinear",)),
            ("exif", self.exif, (True,)),
        ):
            if value not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise ValueError(f"input: {name} is {value!r}, expected {choices}; use the NASForge that wrote it")
        if len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"input: background is {self.background!r}, expected three numbers of 0..255")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {
            "channels": self.channels,
            "resize": self.resize,
            "filter": self.filter,
            "background": list(self.background),
            "exif": self.exif,
            "jpeg_draft": self.jpeg_draft,
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> InputRule:
        """Return the inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        unknown = sorted(set(content) - set(InputRule(1).to_json()))
        if unknown:
            raise ValueError(f"input: unknown key {unknown[0]!r}; use the NASForge that wrote it")
        return InputRule(
            channels=int(content["channels"]),
            resize=str(content["resize"]),
            filter=str(content["filter"]),
            background=tuple(int(value) for value in content["background"]),  # type: ignore[arg-type]
            exif=content["exif"],
            jpeg_draft=int(content["jpeg_draft"]),
        )

    @staticmethod
    def from_text(text: str) -> InputRule:
        """Return the rule of a JSON text. Raises ValueError, KeyError or TypeError on anything else."""
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"input: expected a JSON object, got {text[:40]!r}")
        return InputRule.from_json(content)


def prepared(channels: int) -> InputRule:
    """Return the rule of images that `nasforge.api.prepare` writes: aspect kept, large JPEG files decoded small."""
    return InputRule(channels, CENTRE_CROP, jpeg_draft=2)
