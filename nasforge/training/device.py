"""Device choices: where to compute, in which precision and memory format, and how much memory is free."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d

from nasforge.core.architecture import digest
from nasforge.core.errors import ConfigError, DataError
from nasforge.core.gpu_share import lent, share_of_card
from nasforge.core.recipe import Recipe
from nasforge.data.cache import cache_folder
from nasforge.models.costs import cpu_name

log = logging.getLogger(__name__)


def device_of(name: str) -> torch.device:
    """Return a device: `auto` is the first GPU, else the CPU; other names are torch's.

    For a Ray worker that got no GPU `auto` is the CPU, whatever the worker sees.

    Raises:
        ConfigError: the device does not exist here.
    """
    if name == "auto":
        if lent() == 0 or not torch.cuda.is_available():
            return torch.device("cpu")
        if reason := _reason_against("cuda"):
            _warn(f"torch cannot use the GPU of this machine ({reason}); device auto is the CPU")
            return torch.device("cpu")
        return _limited(torch.device("cuda"))
    if reason := _reason_against(name):
        raise ConfigError(
            f"device '{name}' cannot be used here ({reason}); set auto or cpu", kind="failed", key="device"
        )
    return _limited(torch.device(name))


def _try(device: torch.device) -> None:
    """Run a kernel and wait for it: torch also lists GPUs for which it has no kernels.

    A GPU whose memory is full at this moment works; the trial that follows fails for want of memory, or does not.
    """
    with suppress(torch.OutOfMemoryError):
        torch.ones(1, device=device).add_(1).item()


def still_computes(device: torch.device | None = None) -> bool:
    """Return whether a GPU runs a kernel in this process, after an error; False where CUDA was never used."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        _try(torch.device("cuda") if device is None or device.type != "cuda" else device)
    except RuntimeError:
        return False
    return True


@cache
def _reason_against(name: str) -> str:
    """Return why NASForge cannot compute on a device; empty if it can."""
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            return "NASForge computes on cpu and cuda"
        _try(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # all three are torch's for a missing device
        return str(error).partition("\n")[0]
    return ""


CONTEXT_MB = 500.0
"""Memory that a process takes of a GPU for CUDA itself, which torch's limit does not count."""


def share_mb(device: torch.device) -> float | None:
    """Return the memory in MB that this process's tensors may take of a card that it shares; None: it does not."""
    share = share_of_card()
    if device.type != "cuda" or share == 1:
        return None
    whole = torch.cuda.get_device_properties(device).total_memory / 2**20
    return max(share * whole - CONTEXT_MB, share * whole / 2)


@cache
def _limited(device: torch.device) -> torch.device:
    """Return the device, of which this process can take no more than its share from now on."""
    limit = share_mb(device)
    if limit is not None:
        whole = torch.cuda.get_device_properties(device).total_memory / 2**20
        torch.cuda.set_per_process_memory_fraction(limit / whole, device.index)
    return device


def crowded_out(device: torch.device) -> bool:
    """Return whether a shared card is full although this process has taken less than its share of it."""
    limit = share_mb(device)
    if limit is None:
        return False
    left = limit - torch.cuda.memory_reserved(device) / 2**20
    return left > 0.1 * limit and torch.cuda.mem_get_info(device)[0] / 2**20 < left


@cache
def _warn(text: str) -> None:
    """Log a warning once in a process."""
    log.warning(text)


def uses_bf16(recipe: Recipe, device: torch.device) -> bool:
    """Return whether to compute under bfloat16 autocast.

    `auto` says yes where this is faster: CUDA from compute capability 8.0, and CPUs with AVX512-BF16 or AMX on which
    `bf16_is_faster` measures so. Elsewhere it is emulated: on a Xeon without them a ResNet-8 step took 1.4 to 2 times
    as long as in fp32 (benchmarks/throughput.py measures both).
    """
    if recipe.precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        _warn(f"precision bf16 is emulated and slow on {torch.cuda.get_device_name(device)}; set precision fp32")
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("avx512_bf16") or able.get("amx_bf16")) and bf16_is_faster()
    return False


@cache
def bf16_is_faster() -> bool:
    """Return whether a convolution and its gradients take at most .8 of the time in bfloat16 on this CPU.

    Timed once, in .1 to .5 s, and kept in the cache's folder: all workers of a search, and the process that continues
    it, must compute alike. The processor's flags do not tell: a virtual machine may hide the AMX units of a Xeon and
    show its AVX512-BF16, which torch 2.14 uses for convolutions that take 1.7 times as long as in fp32. An AMD EPYC
    with AVX512-BF16 takes about half as long.
    """
    able = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    try:
        place = cache_folder() / f"bf16_{digest([cpu_name(), able, torch.__version__])}"
        if place.is_file() and (known := place.read_text(encoding="ascii")) in ("faster", "slower"):
            return known == "faster"
    except (DataError, OSError, UnicodeDecodeError):  # there is no such folder: every process times it
        return _time_bf16()
    faster = _time_bf16()
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name(f"{place.name}.{os.getpid()}")
        scratch.write_text("faster" if faster else "slower", encoding="ascii")
        scratch.rename(place)
    return faster


def _time_bf16() -> bool:
    """Return whether bfloat16 takes at most .8 of the time of fp32 now."""

    def seconds(bf16: bool) -> float:
        images = torch.full((16, 32, 14, 14), 0.5).to(memory_format=torch.channels_last).requires_grad_()
        weights = torch.full((32, 32, 3, 3), 0.01).to(memory_format=torch.channels_last).requires_grad_()
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            conv2d(images, weights, padding=1).float().mean().backward()  # type: ignore[no-untyped-call]
        return time.perf_counter() - start

    with torch.inference_mode(False), torch.enable_grad():
        turns = [(seconds(True), seconds(False)) for _ in range(8)]
    # the least: other processes only add
    return min(fast for fast, _ in turns) <= 0.8 * min(plain for _, plain in turns)


def without_overrun(recipe: Recipe, device: torch.device, network: nn.Module) -> Recipe:
    """Return the recipe with channels_last off where training `network` with it would damage the process's memory.

    In channels_last and fp32, oneDNN 3.12 (torch 2.14) writes past the end of its buffer while it computes the weight
    gradient of a 1x1 convolution with a stride and fewer than 7 input channels, on CPUs with AVX2. The process then
    dies with "double free or corruption".
    """
    if device.type != "cpu" or uses_bf16(recipe, device) or not any(map(_overruns, network.modules())):
        return recipe
    return replace(recipe, channels_last=False)


def _overruns(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < 8
    )


def without_stray_reads(
    recipe: Recipe, device: torch.device, network: nn.Module, shapes: Iterable[tuple[int, ...]]
) -> Recipe:
    """Return the recipe in fp32 where training `network` in bfloat16 would take gradients from memory of other tensors.

    In bfloat16, oneDNN 3.12 (torch 2.14) reads past its input while it computes the weight gradient of a convolution
    with a stride, on images that are no wider than the stride, on CPUs with AMX. The gradient is then whatever lay
    there: NaN, 1e30 or a wrong number.

    Args:
        recipe: settings of the training.
        device: device of the training.
        network: takes images N x C x H x W; on the meta device is enough. Of a supernet what it runs is looked at.
        shapes: C, H, W of the images that it is trained on.
    """
    strided = [module for module in network.modules() if isinstance(module, nn.Conv2d) and _may_read_astray(module)]
    if device.type != "cpu" or not strided or not uses_bf16(recipe, device):
        return recipe
    narrow: list[nn.Conv2d] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)  # noqa: S101  (for the type checker)
        if inputs[0].shape[-1] <= module.stride[1]:
            narrow.append(module)

    hooks = [module.register_forward_pre_hook(look) for module in strided]
    was_training = network.training
    try:
        with torch.no_grad():
            for shape in set(shapes):
                network.eval()(torch.zeros(2, *shape, device=next(network.parameters()).device))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return recipe  # `check_shapes` says what is wrong with them
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return replace(recipe, precision="fp32") if narrow else recipe


def _may_read_astray(module: nn.Conv2d) -> bool:
    return module.stride[1] > 1 and module.kernel_size[1] > 1


def memory_format(recipe: Recipe, device: torch.device) -> torch.memory_format:
    """Return channels_last where convolutions are faster with it.

    `auto` says yes on CPUs (a ResNet-8 in fp32 was 1.5 times as fast) and wherever bf16 is used.
    """
    channels_last = recipe.channels_last
    if channels_last == "auto":
        channels_last = device.type == "cpu" or uses_bf16(recipe, device)
    return torch.channels_last if channels_last else torch.contiguous_format


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Set the number of torch threads for the block, None: leave it, and restore it afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let cuDNN's convolutions in fp32 keep all 24 bits; by default GPUs from Ampere on round their inputs to 11."""
    cudnn: Any = torch.backends.cudnn
    with _all_bits(cudnn.conv, cudnn.rnn):  # torch wants both alike
        yield


@contextmanager
def without_bf16() -> Iterator[None]:
    """Let the CPU's products and convolutions in fp32 keep all 24 bits, also where the user asked torch for bf16."""
    one_dnn: Any = torch.backends.mkldnn
    with _all_bits(one_dnn.conv, one_dnn.matmul, one_dnn.rnn):
        yield


@contextmanager
def _all_bits(*places: Any) -> Iterator[None]:
    """Compute in fp32 as IEEE has it in some of torch's backends."""
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def allocated_bytes(device: torch.device) -> int:
    """Return the memory that the tensors of this process take of a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def release_memory(device: torch.device, *, collect: bool = True, cached: bool = True) -> None:
    """Give what a training has left behind back to the device, or to the system.

    glibc keeps freed memory: a worker that had trained 18 of the flagship's networks held 5 GB; in a loop over six of
    them this brought 1.7 GB down to 1.0 GB, its initial size.

    Args:
        device: what was computed on.
        collect: with a garbage collection. One that looks at every object takes tenths of a second, so call this
            within `collecting_new_objects` where nothing older can be garbage.
        cached: return the memory of a GPU that torch keeps for its next tensors to the driver, for other processes;
            the next tensors must ask the driver again, and it waits for the GPU.
    """
    if collect:
        gc.collect()
    if cached and device.type == "cuda":
        with suppress(RuntimeError):  # after a fault of the GPU every call fails, and would hide the first error
            torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of two settings in glibc's malloc.h."""
_KEPT_BYTES = 2**30
_MOST_BEFORE_2_35 = 2**25
"""Largest block that earlier versions of glibc keep."""
_MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep memory that tensors free for the tensors of the next step. Return whether it does so from now on.

    By default it returns large blocks to the system at once, so the next step has a page fault for every 4 KB of them:
    6,000 to 17,000 in a step of a ResNet-8 with a batch of 256, 2 to 10 % of its time (benchmarks/freed_memory.py).
    `release_memory` returns what is left after a training. Variables of glibc that the user has set stay in force.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None or any(os.environ.get(name) for name in _MALLOC_VARIABLES):
        return False
    keeps = set_option(_MMAP_THRESHOLD, _KEPT_BYTES) or set_option(_MMAP_THRESHOLD, _MOST_BEFORE_2_35)
    return bool(keeps) and bool(set_option(_TRIM_THRESHOLD, _KEPT_BYTES))


@contextmanager
def collecting_new_objects() -> Iterator[None]:
    """Let garbage collections within the block look at objects made within it, and at no older ones.

    With torch loaded a process has half a million objects, so a look at all of them takes .2 s. The older ones are
    looked at again after the block. A process that has called `gc.freeze` itself keeps what it froze.
    """
    frozen = gc.get_freeze_count() == 0
    if frozen:
        gc.freeze()
    try:
        yield
    finally:
        if frozen:
            gc.unfreeze()


def free_memory_mb(device: torch.device) -> float | None:
    """Return the memory that a new training could take now, in MB; None if the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        share = free_share_mb(device)
        return min((free + kept) / 2**20, math.inf if share is None else share)
    if device.type != "cpu":
        return None
    free_mb = [f for f in (_meminfo_mb(Path("/proc/meminfo")), _cgroup_mb(Path("/sys/fs/cgroup"))) if f is not None]
    return min(free_mb, default=None)


def free_share_mb(device: torch.device) -> float | None:
    """Return the memory in MB that a new training could take if no other process took more than its share.

    None: this process has the card for itself.
    """
    limit = share_mb(device)
    return None if limit is None else max(0.0, limit - torch.cuda.memory_allocated(device) / 2**20)


def _meminfo_mb(path: Path) -> float | None:
    if not path.exists():
        return None
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return None


def _cgroup_mb(folder: Path) -> float | None:
    """Return the memory that a container may still take (cgroup v2); page cache counts as free."""
    limit, used, parts = folder / "memory.max", folder / "memory.current", folder / "memory.stat"
    if not (limit.exists() and used.exists() and parts.exists()) or limit.read_text().strip() == "max":
        return None
    cached = sum(int(line.split()[1]) for line in parts.read_text().splitlines() if line.startswith("inactive_file "))
    return (int(limit.read_text()) - int(used.read_text()) + cached) / 2**20
