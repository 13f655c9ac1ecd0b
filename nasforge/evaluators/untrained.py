"""Networks that are not trained: copies to compute with, their outputs, hooks. All proxies are made of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Undefined(Exception):
    """The network has nothing that a proxy could look at."""


def copies(
    network: nn.Module, change: Callable[[Tensor], Tensor] = torch.clone
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Copy all parameters and buffers by name, floating ones changed; return also the weights, for gradients."""
    tensors, weights = {}, []
    for name, parameter in network.named_parameters():
        tensors[name] = change(parameter.detach())
        if parameter.requires_grad and parameter.ndim >= 2:
            weights.append(tensors[name].requires_grad_())
    for name, buffer in network.named_buffers():
        tensors[name] = change(buffer) if buffer.is_floating_point() else buffer.clone()
    return tensors, weights


def output_of(network: nn.Module, tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return the network's output, computed with these tensors instead of its own."""
    output = functional_call(network, tensors, (images,))
    if not isinstance(output, Tensor):
        raise Undefined(f"it returns a {type(output).__name__}, not a tensor")
    return output


@contextmanager
def in_mode(network: nn.Module, *, training: bool = True) -> Iterator[None]:
    """Set training mode without dropout, or eval mode; every module's own mode is restored afterwards."""
    before = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in before:
            module.training = training and not isinstance(module, nn.modules.dropout._DropoutNd)
        yield
    finally:
        for module, mode in before:
            module.training = mode


@contextmanager
def hooked(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    """Register a hook, and remove it afterwards."""
    try:
        yield
    finally:
        handle.remove()
