"""Costs of a network: params, multiply-adds, training memory, latency. All but the last on the meta device."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nasforge.core.errors import BuildError, NasforgeError
from nasforge.models.registration import Registration

MB = 2.0**20

_aten = torch.ops.aten
_SAME_SHAPE = frozenset(
    {
        *(_aten.relu, _aten.hardtanh, _aten.silu, _aten.hardswish, _aten.gelu, _aten.elu, _aten.sigmoid),
        *(_aten.add, _aten.mul, _aten.sub, _aten.div),
    }
)

_READS_VALUES = (
    "cannot be called on meta tensors",  # .item(), float(x), if x > 0
    "out of meta tensor",  # .tolist(), .cpu()
    "meta device type tensor to numpy",
    "data-independent implementation",  # x[x > 0], nonzero
    "run this operator with Meta tensors",  # unique, bincount, equal
)
"""Words of the errors with which torch refuses to read the values of a tensor on the meta device."""


class _Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode in which the most common element-wise operations and BN return an empty tensor of the right shape.

    The meta device works these out in Python, which is most of the time of a count. None of them multiplies matrices.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if packet in _SAME_SHAPE and not func._schema.is_mutable and not kwargs:
            first = args[0]
            others = [a for a in args[1:] if isinstance(a, torch.Tensor)]
            if first.is_floating_point() and all(a.shape == first.shape and a.dtype == first.dtype for a in others):
                return torch.empty_like(first)
        if packet is _aten.native_batch_norm:
            channels = args[0].shape[1] if args[5] else 0
            return torch.empty_like(args[0]), args[0].new_empty(channels), args[0].new_empty(channels)
        return func(*args, **(kwargs or {}))


@contextmanager
def _explained(network: nn.Module, shape: Sequence[int]) -> Iterator[None]:
    try:
        yield
    except NasforgeError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        size = _only_size(network)
        advice = "use larger images (--resolution), smaller strides or correct the builder"
        if "view size is not compatible" in reason:
            advice = "its builder needs .reshape(...) in place of .view(...)"
        if "expected device meta" in reason:
            advice = "make that tensor with torch.tensor or torch.as_tensor, or register it as a buffer"
        if any(words in reason for words in _READS_VALUES):
            advice = (
                "costs are counted without data, so the forward pass must not read values of tensors "
                "(.item(), if x > 0, x[x > 0]); compute with tensors alone, such as torch.where"
            )
        if size is not None and size != tuple(shape[1:]):
            height, width = size
            advice = f"it takes images of {height} x {width} pixels only: set --resolution {height}"
        raise BuildError(
            f"the network cannot take an input of {tuple(shape)} (channels, height, width), found on the meta device: "
            f"{type(error).__name__}: {reason}; {advice}",
            kind="failed",
        ) from error


def _only_size(network: nn.Module) -> tuple[int, int] | None:
    """Return the height and width that a timm network requires; None for one that takes several sizes."""
    for module in network.modules():
        about = getattr(module, "default_cfg", None)
        if isinstance(about, Mapping) and about.get("fixed_input_size") and about.get("input_size"):
            _, height, width = about["input_size"]
            return height, width
    return None


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Return the network that `build` makes, on the meta device, with the tensors that it makes of arrays and files."""
    with torch.device("meta"):
        network = build()
    return network.to("meta")


def wrong_output(output: Any, images: int, classes: int) -> str:
    """Return why a network's answer to some images is none; empty for one number per class."""
    got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if got == (images, classes):
        return ""
    return f"the network gives {got} for {images} images, wanted {(images, classes)}: one number per class"


def costs_of(
    build: Callable[[], nn.Module], shape: tuple[int, int, int], batch_size: int = 128, classes: int | None = None
) -> dict[str, float]:
    """Return params, multiply-adds and training memory of the network that `build` makes.

    Args:
        build: makes the network; called once, on the meta device.
        shape: channels, height, width of an image.
        batch_size: of the training, for the memory.
        classes: how many numbers the network must give for each image; None: not checked.

    Returns:
        `cost/params` and `cost/flops` (for one image) as whole numbers, `cost/memory_mb`.

    Raises:
        BuildError: the network cannot take such images, gives another number of answers, or uses layers that its
            state_dict lacks.
    """
    network = on_meta(build)
    return {
        "cost/params": float(count_params(network)),
        "cost/flops": float(count_flops(network, shape)),
        "cost/memory_mb": memory_mb(network, shape, batch_size, classes=classes),
    }


def count_params(network: nn.Module) -> int:
    """Count the trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_flops(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Count multiply-adds of convolutions and matrix products for one input, the convention of the NAS papers.

    Counted by running the network, so any layer works: attention's matrix products count too. A grouped convolution
    counts Kh * Kw * Cin * Cout * H * W / groups, and so does a deformable one of torchvision, without its sampling.
    Not counted are biases, normalisation, activations, pooling, bilinear layers, products with a single vector and
    distances (`torch.cdist`).

    Args:
        network: on any device; on the meta device nothing is computed.
        shape: of one input, without the batch.

    Raises:
        BuildError: the network cannot take such inputs.
    """
    return int(_counted(network, shape).get_total_flops()) // 2  # torch counts a multiply-add as two


def flops_by_module(network: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Return `count_flops` of every module that multiplies, nested ones included; name as in `named_modules`.

    Args:
        network: on any device.
        shape: of one input, without the batch.

    Raises:
        BuildError: the network cannot take such inputs.
    """
    root = type(network).__name__
    counts = _counted(network, shape).get_flop_counts()
    return {
        name.removeprefix(root).removeprefix("."): sum(operations.values()) // 2
        for name, operations in counts.items()
        if name != "Global"
    }


def _counted(network: nn.Module, shape: tuple[int, ...]) -> FlopCounterMode:
    device = next((parameter.device for parameter in network.parameters()), torch.device("meta"))
    was_training = network.training
    network.eval()
    counter = FlopCounterMode(display=False, custom_mapping=_further_operators())
    try:
        with ExitStack() as stack:
            stack.enter_context(_explained(network, shape))
            stack.enter_context(torch.no_grad())
            stack.enter_context(counter)
            if device.type == "meta":
                stack.enter_context(_Shapes())  # type: ignore[no-untyped-call]
            else:
                stack.enter_context(_unfused())
            network(torch.empty(1, *shape, device=device))
    finally:
        network.train(was_training)
    return counter


def _further_operators() -> dict[Any, Callable[..., int]]:
    """Return how operators count that torch's counter lacks; those of torchvision exist once a builder imports it."""
    deformable = getattr(torch.ops.torchvision, "deform_conv2d", None)
    return {} if deformable is None else {deformable: _deformable_flops}


def _deformable_flops(
    images: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    """Count a deformable convolution as the convolution of the same weight, Cout x Cin / groups x Kh x Kw."""
    return 2 * images[0] * math.prod(out_shape[2:]) * math.prod(weight)


@contextmanager
def _unfused() -> Iterator[None]:
    """Compute attention and LSTMs by matrix products: torch counts none of the CPU's operations that do all at once."""
    fast, one_dnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = one_dnn


def memory_mb(
    network: nn.Module,
    shape: tuple[int, int, int],
    batch_size: int,
    optimizer_slots: int = 2,
    classes: int | None = None,
) -> float:
    """Estimate the memory of training in fp32: weights, gradients, optimizer, saved activations.

    What autograd keeps for the backward pass is measured on the meta device; the largest of it is counted twice more,
    for the gradients that flow through it. Left out are the workspace of convolution kernels and the framework itself.

    Args:
        network: on the meta device.
        shape: channels, height, width.
        batch_size: images per step.
        optimizer_slots: numbers that the optimizer keeps per weight (SGD with momentum 1, AdamW 2).
        classes: as in `costs_of`.

    Raises:
        BuildError: as in `costs_of`.
    """
    of_network = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in of_network:
            saved[storage._cdata] = storage
        return tensor

    was_training = network.training
    network.train()
    shapes, registration = _Shapes(), Registration(network)  # type: ignore[no-untyped-call]
    try:
        hooks = saved_tensors_hooks(keep, lambda tensor: tensor)
        with _explained(network, shape), shapes, hooks, registration.watching():
            images = max(2, batch_size)
            output = network(torch.empty(images, *shape, device="meta"))
            registration.check(output)
            wrong = "" if classes is None else wrong_output(output, images, classes)
            if wrong:
                raise BuildError(f"{wrong}; let the builder end with its argument `classes`", kind="invalid")
            activations = sum(storage.nbytes() for storage in saved.values())
            largest = max((storage.nbytes() for storage in saved.values()), default=0)
            del output
    finally:
        network.train(was_training)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    return (weights * (2 + optimizer_slots) + buffers + activations + 2 * largest) / MB


@dataclass(frozen=True)
class Latency:
    """Duration of one forward pass.

    Attributes:
        batch_size: images per pass.
        median_ms: of the timed passes.
        p95_ms: 95 of 100 passes took no longer.
        passes: how many were timed.
        device: its name, with the number of threads on a CPU.
    """

    batch_size: int
    median_ms: float
    p95_ms: float
    passes: int
    device: str


def device_name(device: torch.device) -> str:
    """Return the hardware's name, with the threads that torch uses on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_name() -> str:
    """Return the processor's name."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def latency_ms(
    network: nn.Module,
    shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 64),
    device: torch.device | str = "cpu",
    *,
    warm_up: int = 5,
    passes: int = 30,
) -> dict[int, Latency]:
    """Time the network's forward pass in eval mode, in fp32, after a warm-up.

    On a GPU every pass is waited for. The network is moved to `device` and stays there; its mode is restored.

    Args:
        network: not on the meta device.
        shape: channels, height, width.
        batch_sizes: to time, one after the other.
        device: the target device.
        warm_up: passes before the clock starts.
        passes: timed passes.

    Returns:
        batch size -> figures.
    """
    device = torch.device(device)
    network.to(device)
    was_training = network.training
    network.eval()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    latencies = {}
    try:
        with torch.inference_mode():
            for batch_size in batch_sizes:
                example = torch.rand(batch_size, *shape, device=device)
                times_ms = []
                for turn in range(warm_up + passes):
                    wait()
                    began = time.perf_counter()
                    network(example)
                    wait()
                    if turn >= warm_up:
                        times_ms.append(1000 * (time.perf_counter() - began))
                times_ms.sort()
                p95 = times_ms[math.ceil(0.95 * passes) - 1]
                median = statistics.median(times_ms)
                latencies[batch_size] = Latency(batch_size, median, p95, passes, device_name(device))
    finally:
        network.train(was_training)
    return latencies
