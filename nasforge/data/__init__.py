"""Data sets: found, decoded once per node, divided, kept on the device, augmented there."""

from nasforge.data.image_data import ImageData, load_data
from nasforge.data.part import Part

__all__ = ["ImageData", "Part", "load_data"]
