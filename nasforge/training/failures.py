"""Failures of a training: its errors get a cause, a message and advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nasforge.core.errors import DeviceLost, NasforgeError, one_line
from nasforge.core.trial import Cause, Charge, Failure
from nasforge.data.split import Split
from nasforge.models.costs import wrong_output
from nasforge.training.device import still_computes

SMALLER = "constrain params, flops or memory_mb, or lower the batch size"


class TrainingFailed(NasforgeError):
    """A training cannot continue: the cause, and the cost so far."""

    def __init__(self, cause: Cause, message: str, advice: str = "", charged: Charge = Charge()) -> None:
        self.failure = Failure(cause, message, advice)
        self.charged = charged
        super().__init__(f"{message}; {advice}" if advice else message, kind="failed")


Fail = Callable[[Cause, str, str], TrainingFailed]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU or in main memory."""
    texts = (
        "not enough memory",
        "can't allocate memory",
        "out of memory",
        "cublas_status_alloc_failed",
        "cudnn_status_alloc_failed",
        "unable to find an engine",  # cuDNN has no room for the workspace of any of its kernels
    )
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error).lower() for text in texts)


def is_of_the_gpu(error: BaseException) -> bool:
    """Return whether the GPU or its libraries failed: an error that tells nothing about the network's shapes."""
    return isinstance(error, torch.AcceleratorError) or any(
        text in str(error) for text in ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")
    )


def device_lost(error: BaseException, device: torch.device | None = None) -> DeviceLost | None:
    """Return the error that says that a GPU has failed for good; None where the error is another one.

    After a failed assertion on the GPU, an illegal address or an uncorrectable memory error, every later call of the
    process fails too. Other errors of CUDA, such as a kernel that is started with too many threads, pass. Where this
    process has never used CUDA, a text is no proof: a user's builder may raise one about CUDA on a CPU.

    Args:
        error: what was raised.
        device: where; None: torch's current GPU.
    """
    if is_out_of_memory(error) or not is_of_the_gpu(error):
        return None
    used_cuda = torch.cuda.is_initialized() or (device is not None and device.type == "cuda")  # type: ignore[no-untyped-call]
    if not (used_cuda or isinstance(error, torch.AcceleratorError)) or still_computes(device):
        return None
    first = str(error).partition("\n")[0]  # advice for programmers follows
    return DeviceLost(
        f"{device or 'the GPU'} has failed, and this process cannot compute on it any more: {one_line(first, 200)}. "
        "Nothing finished is lost: run the same command again. If it fails again, look at dmesg and nvidia-smi",
        kind="failed",
        key="device",
    )


@contextmanager
def watching(device: torch.device) -> Iterator[None]:
    """Name the errors that say that a GPU has failed for good.

    Raises:
        DeviceLost: the GPU has failed.
    """
    try:
        yield
    except RuntimeError as error:
        if lost := device_lost(error, device):
            raise lost from error
        raise


@contextmanager
def as_training_failures(fail: Fail, device: torch.device) -> Iterator[None]:
    """Name the errors by which torch says that memory ran out, or that the GPU has failed.

    Raises:
        TrainingFailed: memory ran out.
        DeviceLost: the GPU has failed.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if lost := device_lost(error, device):
            raise lost from error
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "no memory left"
        raise fail("out_of_memory", f"{device}: {reason}", SMALLER) from error


def _takes_contiguous(network: nn.Module, images: Tensor) -> bool:
    """Put the weights into torch's usual memory layout, and return whether the network takes the images then."""
    network.to(memory_format=torch.contiguous_format)
    try:
        with torch.no_grad():
            network(images.contiguous())
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return True


def check_shapes(
    network: nn.Module, split: Split, device: torch.device, layout: torch.memory_format, fail: Fail
) -> None:
    """Run two images through `network`, in eval mode so that nothing changes."""
    images = torch.zeros(2, *split.shape, device=device).contiguous(memory_format=layout)
    try:
        with torch.no_grad():
            output = network.eval()(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error) or is_of_the_gpu(error):
            raise
        reason = str(error).partition("\n")[0]
        message = f"images of {' x '.join(map(str, split.shape))} do not go through the network: {reason}"
        advice = "use fewer strides, larger images (--resolution) or another builder"
        if layout is torch.channels_last and _takes_contiguous(network, images):
            message = f"the network does not take images in the memory layout channels_last: {reason}"
            advice = "write .reshape in place of .view in its forward, or set recipe.channels_last=false"
        raise fail("invalid_shape", message, advice) from error
    wrong = wrong_output(output, 2, split.classes)
    if wrong:
        raise fail("invalid_shape", wrong, "let the builder end with its argument `classes`")
