"""Numbers of images behind the accuracies of a search; the journal keeps them, so that views need no images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FEWEST_IMAGES = 200
"""Below this number of validation images, the accuracies of good trials differ only by chance. `fit` validates on so
many, or compares the log loss."""


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images.

    Attributes:
        train: images of one epoch.
        validated: images that `val/...` is measured on.
        classes: number of classes.
        largest: share of the largest class among the validated images, 0 to 1.
    """

    train: int
    validated: int
    classes: int
    largest: float

    @property
    def constant(self) -> float:
        """Accuracy of always answering the largest class."""
        return max(self.largest, 1 / self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> ImageCounts | None:
        """Rebuild the object from its `to_json` form; None stays None."""
        return None if content is None else ImageCounts(**content)
