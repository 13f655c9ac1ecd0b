"""Health of a training by part: gradients, activations, dead ReLUs, and the first non-finite numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nasforge.training.depth import inner
from nasforge.training.hooks import Hook, Step

_RELUS = (nn.ReLU, nn.ReLU6)


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the network's children that have weights: its stem, stages, classifier."""
    _, body = inner(network)
    return {name: child for name, child in body.named_children() if any(True for _ in child.parameters())}


class Health(Hook):
    """Activations, gradients and dead ReLUs of every part of the network, on the last batch of each epoch.

    A unit of a ReLU is a channel; it is dead on a batch when it is zero for every image at every place.
    """

    name = "health"

    def __init__(self, network: nn.Module) -> None:
        self._parts = parts_of(network)
        self._looks = False
        self._activations: dict[str, Tensor] = {}
        self._relus: dict[str, list[tuple[Tensor, int]]] = {}
        self._gradients: dict[str, Tensor] = {}

    def before_step(self, step: Step) -> None:
        """Look at the last step of an epoch alone."""
        self._looks = step.last

    def around_forward(self) -> AbstractContextManager[None]:
        """Look at the activations."""
        return self._watching() if self._looks else nullcontext()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._activations, self._relus = {}, {}
        with _hooks() as hook:
            for name, part in self._parts.items():
                hook(part, lambda layer, inputs, out, name=name: self._see(name, out))
                for module in part.modules():
                    if isinstance(module, _RELUS):
                        hook(module, lambda layer, inputs, out, name=name: self._see_relu(name, out))
            yield

    def after_backward(self) -> None:
        """Look at the gradients before they are clipped."""
        if not self._looks:
            return
        for name, part in self._parts.items():
            gradients = [parameter.grad for parameter in part.parameters() if parameter.grad is not None]
            if gradients:
                self._gradients[name] = nn.utils.get_total_norm(gradients)

    def metrics(self, done: int) -> dict[str, float]:
        """Return norms of gradients, root mean squares of activations and shares of dead ReLUs."""
        metrics: dict[str, float] = {}
        if self._gradients:
            metrics["health/gradient_norm"] = float(torch.stack(list(self._gradients.values())).square().sum().sqrt())
        for name in self._parts:
            if name in self._gradients:
                metrics[f"health/{name}.gradient_norm"] = float(self._gradients[name])
            if name in self._activations:
                metrics[f"health/{name}.activation"] = float(self._activations[name])
            if name in self._relus:
                dead = sum(int(number) for number, _ in self._relus[name])
                metrics[f"health/{name}.dead_relus"] = dead / sum(units for _, units in self._relus[name])
        return metrics

    def _see(self, name: str, out: Any) -> None:
        if isinstance(out, Tensor):
            self._activations[name] = out.detach().float().square().mean().sqrt()

    def _see_relu(self, name: str, out: Tensor) -> None:
        fired = (out.detach() > 0).transpose(0, 1).flatten(1).any(1)
        self._relus.setdefault(name, []).append(((~fired).sum(), len(fired)))


def where_not_finite(network: nn.Module, inputs: Tensor) -> str:
    """Return the first part, from the images on, with numbers that are infinite or NaN; empty if there is none.

    Args:
        network: what diverged.
        inputs: a batch to send through it, which changes its batch statistics.
    """
    first: list[str] = []

    def look(name: str, part: nn.Module, out: Any) -> None:
        if first or not isinstance(out, Tensor):
            return
        if not all(bool(parameter.isfinite().all()) for parameter in part.parameters()):
            first.append(f"the weights of {name}")
        elif not bool(out.isfinite().all()):
            first.append(f"the output of {name}")

    with torch.no_grad(), _hooks() as hook:
        for name, part in parts_of(network).items():
            hook(part, lambda layer, arguments, out, name=name: look(name, layer, out))
        network(inputs)
    return first[0] if first else ""


@contextmanager
def _hooks() -> Iterator[Callable[..., None]]:
    """Register forward hooks, and remove them afterwards."""
    handles = []
    try:
        yield lambda module, hook: handles.append(module.register_forward_hook(hook))
    finally:
        for handle in handles:
            handle.remove()
