"""Check that a network's forward pass uses no parameters or layers that its `state_dict` lacks.

Such a layer is not trained, not saved, and initialised again by every build: a network that was loaded again would be
another one. PyTorch does not see layers in a plain list, dictionary or closure.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from nasforge.core.errors import BuildError

_NOT_REGISTERED = (
    ", which is not in its state_dict and would be neither trained nor saved; assign layers to attributes of their "
    "module, or keep them in nn.ModuleList or nn.ModuleDict, parameters in nn.ParameterList"
)


_REGISTERED = ("_modules", "_parameters", "_buffers")
"""Attributes in which a module keeps what PyTorch knows of."""


class Registration:
    """The modules that one forward pass of a network calls."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._called: dict[int, nn.Module] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record every module that is called within the block."""

        thread = threading.get_ident()

        def note(module: nn.Module, inputs: Any) -> None:
            if threading.get_ident() == thread:
                self._called[id(module)] = module

        handle = register_module_forward_pre_hook(note)
        try:
            yield
        finally:
            handle.remove()

    def check(self, output: Any) -> None:
        """Look for what `state_dict` lacks.

        Args:
            output: of the network, computed with gradients while the calls were watched.

        Raises:
            BuildError: the network used a layer or a parameter that is not registered; it is named.
        """
        registered = {id(module) for module in self._network.modules()}
        for module in self._called.values():
            if id(module) not in registered and module.state_dict():
                place = _place(self._network, module)
                what = f"{place or 'that its modules do not keep'} ({type(module).__name__})"
                raise BuildError(f"the network uses a layer {what}{_NOT_REGISTERED}", kind="unsupported")
        known = {id(parameter) for parameter in self._network.parameters()}
        for parameter in _leaves(output):
            if id(parameter) not in known:
                place = _place(self._network, parameter)
                if place or isinstance(parameter, nn.Parameter):
                    what = f"{place or 'that its modules do not keep'} of shape {tuple(parameter.shape)}"
                    raise BuildError(f"the network uses a parameter {what}{_NOT_REGISTERED}", kind="unsupported")


def _leaves(output: Any) -> Iterator[Tensor]:
    """Return the tensors with `requires_grad` that an output was computed from."""
    tensors = output if isinstance(output, (tuple, list)) else [output]
    waiting = [tensor.grad_fn for tensor in tensors if isinstance(tensor, Tensor) and tensor.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


def _place(network: nn.Module, target: nn.Module | Tensor) -> str:
    """Return the attribute that holds a module or tensor, as `'blocks[0].conv'`; empty if no module does."""
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            path = None if attribute in _REGISTERED else _path_to(target, value, 4)
            if path is not None:
                return f"'{'.'.join(filter(None, (name, attribute)))}{path}'"
    return ""


def _path_to(target: nn.Module | Tensor, value: Any, depth: int) -> str | None:
    """Return the indices and attributes that lead from `value` to `target`; None if nothing does."""
    if value is target:
        return ""
    if isinstance(value, nn.Module):
        members = [*value.named_modules(), *value.named_parameters()]
        return next((f".{name}" for name, member in members if member is target and name), None)
    pairs: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        pairs = iter(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = iter(enumerate(value))
    else:
        return None
    for key, member in pairs if depth else ():
        path = _path_to(target, member, depth - 1)
        if path is not None:
            return f"[{key!r}]{path}"
    return None


def check_state(network: nn.Module, other: nn.Module, shape: tuple[int, int, int]) -> None:
    """Compare two builds of one network, started by different seeds, once they have the same state.

    Args:
        network: built with one seed, on the CPU; its mode is restored.
        other: built with another seed; it gets the state of `network`.
        shape: channels, height, width of an image.

    Raises:
        BuildError: they answer differently, so the network uses random numbers that its state_dict lacks. A network
            that cannot be run here, or answers differently each time, passes.
    """
    images = torch.linspace(-1, 1, 2 * math.prod(shape)).reshape(2, *shape)
    was_training = network.training
    try:
        other.load_state_dict(network.state_dict())
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            first, second = network.eval()(images), other.eval()(images)
            if torch.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True):
                return
            if not torch.allclose(first, network(images), rtol=1e-4, atol=1e-5, equal_nan=True):
                return
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return  # the training says what is wrong with the images' shape
    finally:
        network.train(was_training)
    twins = dict(_unsaved(other))
    differing = (
        name
        for name, tensor in _unsaved(network)
        if name in twins and not (tensor.shape == twins[name].shape and torch.equal(tensor, twins[name]))
    )
    raise BuildError(
        f"tensor {next((repr(name) for name in differing), 'outside of its modules')} of the network is random and not "
        "in its state_dict, so a network that is loaded again would be another one; keep it by register_buffer",
        kind="unsupported",
    )


def _unsaved(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return tensors that the modules keep without saving them, by attribute."""
    saved = set(network.state_dict())
    yield from ((name, buffer) for name, buffer in network.named_buffers() if name not in saved)
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            if attribute not in _REGISTERED:
                yield from _tensors(".".join(filter(None, (name, attribute))), value, 4)


def _tensors(path: str, value: Any, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value.detach()
    elif depth and isinstance(value, (list, tuple, Mapping)):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, member in pairs:
            yield from _tensors(f"{path}[{key!r}]", member, depth - 1)
