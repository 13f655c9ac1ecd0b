"""The logits of a trained network for fixed images, kept with its weights.

Weights alone do not make a network: with `padding_mode="circular"` or another dilation they fit as well, and the
answers are others. So whoever loads the weights compares the logits, too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasforge.core.errors import one_line
from nasforge.core.ranges import is_number
from nasforge.training.device import without_bf16

_LARGE, _TOO_LARGE = 2**19, 2**22
"""Numbers of two images from which on one image is taken; numbers of one image from which on there is no probe."""
_KEPT = 64
"""Largest number of logits that are kept, evenly spaced."""
_TOLERANCE = 1e-3
"""Largest difference, relative to the largest logit: processors and numbers of threads order sums differently."""
_NUDGE = 1e-6
"""Relative change of the images that a probe must survive."""


@dataclass(frozen=True)
class Probe:
    """Logits of a network in eval mode for fixed images, computed in fp32 on the CPU.

    Attributes:
        images: how many, 1 or 2; their normalised numbers rise evenly from -1 to 1.
        logits: at most 64 of them, evenly spaced, to 6 digits.
    """

    images: int
    logits: tuple[float, ...]

    def __post_init__(self) -> None:
        if type(self.images) is not int or not 1 <= self.images <= 2:
            raise ValueError(f"probe: images {self.images!r}, expected 1 or 2")
        if not 1 <= len(self.logits) <= _KEPT or not all(is_number(x) and math.isfinite(x) for x in self.logits):
            raise ValueError(f"probe: expected 1 to {_KEPT} finite logits")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {"images": self.images, "logits": list(self.logits)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Probe:
        """Rebuild the object from its `to_json` form.

        Raises:
            LookupError, TypeError, ValueError: it is none.
        """
        return Probe(content["images"], tuple(content["logits"]))


def probe_of(network: nn.Module, shape: tuple[int, int, int]) -> Probe | None:
    """Return the probe of a trained network, which stays as it is, on its device and in its mode.

    Args:
        network: takes normalised images.
        shape: channels, height, width of an image.

    Returns:
        None where a probe would tell nothing or be wrong on another machine: for very large images, a network that
        cannot run on the CPU, logits that are not finite, differ from run to run, or change with a rounding.
    """
    size = math.prod(shape)
    if size > _TOO_LARGE:
        return None
    images = 2 if 2 * size <= _LARGE else 1
    try:
        copied = copy.deepcopy(network).cpu()
        logits = _logits(copied, shape, images)
        nudged = _logits(copied, shape, images, scale=1 + _NUDGE, seed=1)
    except Exception:  # whatever the network or a copy of it raises, the network itself is worth keeping
        return None
    if logits.numel() and bool(logits.isfinite().all()) and _same(logits, nudged, _TOLERANCE / 10):
        return Probe(images, tuple(float(f"{logit:.6g}") for logit in logits.tolist()))
    return None


def mismatch(network: nn.Module, probe: Probe | None, shape: tuple[int, int, int]) -> str:
    """Return how the logits of a network differ from a probe; empty where they are the same.

    Args:
        network: on the CPU, with its weights; it stays as it is.
        probe: of the network that it should be; None where none was kept, and so nothing differs.
        shape: channels, height, width of an image.
    """
    if probe is None:
        return ""
    try:
        copied = copy.deepcopy(network)  # modules may keep tensors of the first images that they see
    except Exception:
        copied = network
    try:
        logits = _logits(copied, shape, probe.images)
    except Exception as error:
        return f"it fails with images of {shape}: {one_line(error)}"
    expected = torch.tensor(probe.logits, dtype=logits.dtype)
    if logits.shape != expected.shape:
        return "it gives another number of logits"
    if _same(expected, logits, _TOLERANCE):
        return ""
    return f"for the same image it gives a logit of {_worst(expected, logits)}"


def _same(expected: Tensor, logits: Tensor, tolerance: float) -> bool:
    """Return whether logits agree up to a share of the largest one; those that are not finite never do."""
    if expected.shape != logits.shape:
        return False
    return bool(((expected - logits).abs() <= tolerance * expected.abs().max()).all())


def _worst(expected: Tensor, logits: Tensor) -> str:
    place = int((expected - logits).abs().nan_to_num(math.inf).argmax())
    return f"{float(logits[place]):.4g} in place of {float(expected[place]):.4g}"


def _logits(
    network: nn.Module, shape: tuple[int, int, int], images: int, *, scale: float = 1.0, seed: int = 0
) -> Tensor:
    """Return some logits of a network on the CPU for the fixed images, times `scale`; its mode is restored.

    Args:
        network: takes normalised images.
        shape: channels, height, width of an image.
        images: how many.
        scale: factor of the images.
        seed: of a network that draws random numbers; torch's generator is restored.
    """
    pixels = torch.linspace(-1, 1, images * math.prod(shape), dtype=torch.float32).reshape(images, *shape) * scale
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False), without_bf16():
            torch.default_generator.manual_seed(seed)
            output: Tensor = network.eval()(pixels)
    finally:
        for module, mode in modes:
            module.training = mode
    flat = output.detach().float().flatten()
    return flat[:: max(1, math.ceil(flat.numel() / _KEPT))]
