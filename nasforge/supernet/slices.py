"""Narrow tensors as leading parts of wide ones: how the widths of a supernet share their weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nasforge.core.errors import BuildError


def leading_slices(part: nn.Module, whole: nn.Module) -> dict[str, torch.Tensor]:
    """For every tensor of `part` the leading slice of the tensor of that name in `whole`.

    Matrices are copied: on some processors the strides of a factor decide how a product's gradients are rounded, and a
    slice's are not those of the child's own matrix. All others are views, so that statistics are updated in place.

    Raises:
        BuildError: `whole` has no such tensor, or a smaller one.
    """
    # under every name that it has: a module shared by two places may be in one of them only in `part`
    tensors: dict[str, torch.Tensor] = {
        **dict(whole.named_parameters(remove_duplicate=False)),
        **dict(whole.named_buffers(remove_duplicate=False)),
    }
    found = {}
    for name, wanted in (*part.named_parameters(), *part.named_buffers()):
        tensor = tensors.get(name)
        if tensor is None:
            raise BuildError(f"the network has a tensor '{name}', which it has not at the largest width")
        piece = leading_slice(name, tensor, wanted.shape)
        found[name] = piece.contiguous() if isinstance(wanted, nn.Parameter) and wanted.dim() == 2 else piece
    return found


def leading_slice(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The leading `shape` of a tensor; the tensor itself where it has that shape.

    Raises:
        BuildError: the tensor is smaller, or of another number of dimensions.
    """
    if tensor.shape == tuple(shape):
        return tensor
    if tensor.dim() != len(shape) or any(have < want for have, want in zip(tensor.shape, shape, strict=True)):
        raise BuildError(f"tensor '{name}' is {tuple(shape)}, and cannot be sliced from {tuple(tensor.shape)}")
    return tensor[tuple(slice(size) for size in shape)]
