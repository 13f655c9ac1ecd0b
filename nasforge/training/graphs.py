"""CUDA graphs: the forward and backward pass of a network as one launch each, for networks whose kernels are short.

The idea and its limits are in "Accelerating PyTorch with CUDA Graphs", https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from nasforge.training.failures import is_of_the_gpu, is_out_of_memory

log = logging.getLogger(__name__)

Forward: TypeAlias = Callable[[Tensor], Tensor]

_EAGER_STEPS = 3
"""Steps with images of one shape before they are recorded: libraries choose their kernels in the first ones."""
_MOST_SHAPES = 4
_TOLERANCE = 0.05
"""Largest relative difference of the recorded pass from the eager one, which rounds otherwise."""
_WITHOUT = "this training runs without CUDA graphs (%s); leave out cuda_graphs for such networks"


class Graphs:
    """The forward pass of a training, recorded once for each shape of its batches and then replayed.

    A replay starts the kernels of the recording, so Python code of the network does not run again. Where a module has
    hooks at the moment, in eval mode, and for shapes that are not recorded, the network runs as usual. A recording that
    fails, or whose logits or gradients are not those of the network, is given up with a warning.

    Args:
        network: on its device, in the memory format of the training.
        bf16: record under bfloat16 autocast.
    """

    def __init__(self, network: nn.Module, *, bf16: bool) -> None:
        self._network = network
        self._device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self._bf16 = bf16
        self._steps: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, Forward] = {}
        self._eager = False

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the logits of N x C x H x W images, N x classes."""
        network: Forward = self._network
        if self._eager or not self._network.training or not torch.is_grad_enabled() or _hooked(self._network):
            return network(inputs)
        recorded = self._recorded.get(inputs.shape)
        if recorded is None:
            self._steps[inputs.shape] += 1
            if self._steps[inputs.shape] <= _EAGER_STEPS or len(self._recorded) == _MOST_SHAPES:
                return network(inputs)
            recorded = self._record(inputs)
        return recorded(inputs) if recorded else network(inputs)

    def _record(self, inputs: Tensor) -> Forward | None:
        """Record the passes for this shape; None, with a warning, where they cannot be recorded."""
        try:
            with (
                self._unchanged(),
                torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False),
            ):
                record: Callable[..., Any] = torch.cuda.make_graphed_callables
                recorded: Forward = record(
                    _Call(self._network),
                    (inputs.clone(),),
                    allow_unused_input=True,
                    capture_error_mode="thread_local",  # other threads copy batches to the GPU
                )
                reason = self._difference(recorded, inputs)
        except (RuntimeError, AssertionError) as error:  # the second for a network that cannot be recorded at all
            reason = str(error).partition("\n")[0] or type(error).__name__
            if is_out_of_memory(error):
                reason = "no memory left"
            elif is_of_the_gpu(error):
                reason = f"{reason}; a network that reads numbers from the GPU cannot be recorded"
        if not reason:
            self._recorded[inputs.shape] = recorded
            return recorded
        log.warning(_WITHOUT, reason)
        self._eager = True
        self._recorded.clear()
        return None

    def _difference(self, recorded: Forward, inputs: Tensor) -> str:
        """Return how the recorded pass differs from the network's; empty where it does not."""
        weights = [parameter for parameter in self._network.parameters() if parameter.requires_grad]

        def passed(forward: Forward) -> tuple[Tensor, Tensor]:
            with self._unchanged():
                logits = forward(inputs).float()
                gradients = torch.autograd.grad(logits.square().mean(), weights, allow_unused=True)
            flat = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]
            # a replay writes its results to the same memory again
            return logits.detach().clone(), torch.cat([gradient.float().flatten() for gradient in flat])

        for name, eager, replayed in zip(("logits", "gradients"), passed(self._network), passed(recorded), strict=True):
            if not (eager - replayed).norm() <= _TOLERANCE * eager.norm():  # not a number is a difference too
                return f"the recorded {name} are not those of the network"
        return ""

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Put the buffers of the network and the random generators back in the end."""
        before = [buffer.clone() for buffer in self._network.buffers()]
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            try:
                yield
            finally:
                with torch.no_grad():
                    for buffer, value in zip(self._network.buffers(), before, strict=True):
                        buffer.copy_(value)


class _Call(nn.Module):
    """A module of which the recording may replace `forward`, so that the network stays as it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        return out


def _hooked(network: nn.Module) -> bool:
    """Return whether some module calls other code in its forward or backward pass, which a replay would leave out."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in network.modules()
    )


def forward_of(network: nn.Module, device: torch.device, *, bf16: bool, cuda_graphs: bool) -> Forward:
    """Return the forward pass of a training: the network, or its CUDA graphs where they are wanted and there is a GPU.

    On a CPU, and for a network that has hooks before its training begins, a warning says that there are none.
    """
    if not cuda_graphs:
        return network
    if device.type != "cuda":
        log.warning("cuda_graphs has no effect on device %s", device)
        return network
    if _hooked(network):
        log.warning(_WITHOUT, "its modules have hooks, which a replay would leave out")
        return network
    return Graphs(network, bf16=bf16)
