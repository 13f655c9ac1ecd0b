"""Data sets: found, decoded once per node, divided, kept on the device, augmented there."""

from nasforge.data.image_data import ImageData, load_data
from nasforge.data.split import Split

__all__ = ["ImageData", "Split", "load_data"]
