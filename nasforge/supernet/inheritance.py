"""Inheritance of weights: a child takes its tensors from a supernet by key, narrow tensors are leading slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.supernet.mixed import option_name

_NETWORK = "network."


def inherited(supernet_state: Mapping[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    """Return the slice of a supernet's state that belongs to `architecture`, under the child's keys.

    A supernet's key names the option of every mixture it passes (`stage0.layer1.@stage0:layer1:block=residual.branch`);
    a tensor is kept when the architecture decided all of them so.

    Args:
        supernet_state: `Supernet.state_dict()`.
        architecture: a point of the supernet's space.
    """
    chosen = {option_name(key, value) for key, value in architecture.model.items()}
    state = {}
    for key, tensor in supernet_state.items():
        parts = key.removeprefix(_NETWORK).split(".")
        if all(part in chosen for part in parts if part.startswith("@")):
            state[".".join(part for part in parts if not part.startswith("@"))] = tensor
    return state


def inherit(supernet_state: Mapping[str, torch.Tensor], architecture: Architecture, child: nn.Module) -> None:
    """Load a supernet's weights and buffers into the network built for `architecture`, sliced to its widths.

    Args:
        supernet_state: `Supernet.state_dict()`.
        architecture: a point of the supernet's space.
        child: the network that `nasforge.models.network.build` made for it; changed in place.

    Raises:
        BuildError: the supernet lacks a tensor of the child, or holds a smaller one.
    """
    available = inherited(supernet_state, architecture)
    state: dict[str, torch.Tensor] = {}
    problems = []
    for key, tensor in child.state_dict().items():
        if key not in available:
            problems.append(f"'{key}' is missing")
            continue
        try:
            state[key] = leading_slice(key, available[key], tensor.shape)
        except BuildError as error:
            problems.append(str(error))
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise BuildError(
            f"these supernet weights do not fit architecture {architecture.arch_id}: {shown}", kind="changed"
        )
    child.load_state_dict(state)


def leading_slices(part: nn.Module, whole: nn.Module) -> dict[str, torch.Tensor]:
    """Return for every tensor of `part` the leading slice of the tensor of that name in `whole`.

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
    slices = {}
    for name, target in (*part.named_parameters(), *part.named_buffers()):
        tensor = tensors.get(name)
        if tensor is None:
            raise BuildError(
                f"the network has a tensor '{name}', which is missing at the largest width", kind="changed", key=name
            )
        piece = leading_slice(name, tensor, target.shape)
        slices[name] = piece.contiguous() if isinstance(target, nn.Parameter) and target.dim() == 2 else piece
    return slices


def leading_slice(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the leading `shape` of a tensor; the tensor itself if it has that shape.

    Raises:
        BuildError: the tensor is smaller, or of another number of dimensions.
    """
    if tensor.shape == tuple(shape):
        return tensor
    if tensor.dim() != len(shape) or any(have < want for have, want in zip(tensor.shape, shape, strict=True)):
        raise BuildError(
            f"tensor '{name}' has shape {tuple(shape)}, which cannot be sliced from {tuple(tensor.shape)}",
            kind="changed",
            key=name,
        )
    return tensor[tuple(slice(size) for size in shape)]
