"""A child network takes its weights from a supernet: parameters and BN buffers, by key."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError
from nasforge.supernet.mixed import option_name
from nasforge.supernet.slices import leading_slice

_NETWORK = "network."


def inherited(supernet_state: Mapping[str, torch.Tensor], architecture: Architecture) -> dict[str, torch.Tensor]:
    """The part of a supernet's state that belongs to `architecture`, under the child's keys.

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
    for key, wanted in child.state_dict().items():
        if key not in available:
            problems.append(f"'{key}' is missing")
            continue
        try:
            state[key] = leading_slice(key, available[key], wanted.shape)
        except BuildError as error:
            problems.append(str(error))
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise BuildError(f"these supernet weights do not fit architecture {architecture.arch_id}: {shown}")
    child.load_state_dict(state)
