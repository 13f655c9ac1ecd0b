"""Is the exported network the trained one? Reload it, and compare both on real validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from nasforge.core.errors import ExportError, one_line

Predict: TypeAlias = Callable[[Tensor], Tensor]
"""Float images in 0..1, N x C x H x W, -> logits, N x classes."""

TOLERANCE = 1e-4
"""Largest difference of an output allowed, relative to the largest output or 1: runtimes order sums differently."""

BATCH_SIZES = (1, 2, 7, 64)
"""An export that fixed its batch size works for one of these only."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of an exported network with the trained one.

    Attributes:
        images: validation images compared.
        difference: largest absolute difference of an output.
        largest: largest absolute output of the trained network.
        accuracy: of the trained network on these images, a fraction.
        accuracy_exported: of the exported one.
    """

    images: int
    difference: float
    largest: float
    accuracy: float
    accuracy_exported: float


def verify(
    name: str,
    network: nn.Module,
    exported: Predict,
    images: Tensor,
    labels: Tensor,
    *,
    tolerance: float = TOLERANCE,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Agreement:
    """Compare an exported network with the trained one, in batches of several sizes.

    Args:
        name: the format, for messages.
        network: the trained one, in eval mode, on the CPU.
        exported: the reloaded one.
        images: uint8, N x C x H x W: real validation images.
        labels: N.
        tolerance: largest difference allowed, relative to the largest output or 1.
        batch_sizes: the last one goes through all images, the others through the first batch of their size.

    Raises:
        ExportError: outputs, their shape or the accuracy differ, or the exported network breaks on a batch. Images
            whose two largest outputs are as good as equal may be named otherwise.
    """
    if len(images) == 0:
        raise ExportError(f"{name}: there are no validation images to verify the export with", kind="empty")
    differences: list[Tensor] = []
    leads: list[Tensor] = []
    largest = 0.0
    right = right_exported = 0
    with torch.inference_mode():
        for size in dict.fromkeys(batch_sizes[:-1]):
            expected, got = _both(name, network, exported, images[:size])
            differences.append((expected - got).abs().max())
            largest = max(largest, float(expected.abs().max()))
        for start in range(0, len(images), batch_sizes[-1]):
            batch = slice(start, start + batch_sizes[-1])
            expected, got = _both(name, network, exported, images[batch])
            differences.append((expected - got).abs().max())
            largest = max(largest, float(expected.abs().max()))
            highest = expected.topk(min(2, expected.shape[1])).values
            leads.append((highest[:, 0] - highest[:, -1])[expected.argmax(1) != got.argmax(1)])
            right += int((expected.argmax(1) == labels[batch]).sum())
            right_exported += int((got.argmax(1) == labels[batch]).sum())
    difference = float(torch.stack(differences).max())  # torch's max keeps a NaN, Python's loses it
    count = len(images)
    measured = Agreement(count, difference, largest, right / count, right_exported / count)
    allowed = tolerance * max(1.0, largest)
    if not difference <= allowed:  # also when it is NaN
        raise ExportError(
            f"{name}: the exported network is not the trained one: its outputs differ by up to {difference:.3g} on "
            f"{count} validation images (allowed: {allowed:.3g}), accuracy {measured.accuracy_exported:.4f} instead of "
            f"{measured.accuracy:.4f}. The file was not kept",
            kind="mismatch",
        )
    tied = 2 * TOLERANCE * max(1.0, largest)
    if right != right_exported and bool((torch.cat(leads) > tied).any()):
        raise ExportError(
            f"{name}: the exported network has an accuracy of {measured.accuracy_exported:.4f} on {count} validation "
            f"images, the trained one {measured.accuracy:.4f}. The file was not kept",
            kind="mismatch",
            key="val/accuracy",
        )
    return measured


def _both(name: str, network: nn.Module, exported: Predict, images: Tensor) -> tuple[Tensor, Tensor]:
    batch = images.float() / 255
    expected = network(batch)
    try:
        got = exported(batch)
    except Exception as error:  # whatever a runtime raises, the export is no good
        raise ExportError(
            f"{name}: the exported network fails on a batch of {len(batch)}: {one_line(error)}. The file was not kept",
            kind="failed",
        ) from error
    if got.shape != expected.shape:
        raise ExportError(
            f"{name}: the exported network gives {tuple(got.shape)} for a batch of {len(batch)}, the trained one "
            f"{tuple(expected.shape)}. The file was not kept",
            kind="mismatch",
        )
    return expected.float(), got.float()
