"""Common parts of evaluators of image networks: data, latency, failures as results, and memory that is freed."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.gpu_share import share_of_card
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Charge, Result
from nasforge.data import load_data
from nasforge.models.costs import latency_ms
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig
from nasforge.training.device import (
    allocated_bytes,
    collecting_new_objects,
    crowded_out,
    device_of,
    release_memory,
    torch_threads,
)
from nasforge.training.failures import SMALLER, TrainingFailed, device_lost, is_out_of_memory, watching


def needed(data: DataConfig | None, evaluator: str) -> DataConfig:
    """Return the data that an evaluator needs. Raises ConfigError if there are none."""
    if data is None:
        raise ConfigError(
            f"evaluator '{evaluator}' needs data; set --data to a name such as digits, a .npz file or an image folder",
            kind="missing",
            key="data",
        )
    return data


def forward_ms(
    space: SearchSpace, architecture: Architecture, data_config: DataConfig, device_name: str, threads: int | None
) -> float:
    """Return the median milliseconds of one image's forward pass of an untrained network on this worker, fp32.

    Args:
        space: of the architecture.
        architecture: the point.
        data_config: of the images, whose shape and classes are used.
        device_name: `auto`, `cpu`, `cuda`...
        threads: torch threads meanwhile; None: as they are.
    """
    with torch_threads(threads):
        data = load_data(data_config)
        network = build(space, architecture, in_channels=data.shape[0], classes=len(data.class_names))
        device = device_of(device_name)
        with watching(device):
            return latency_ms(network, data.shape, (1,), device)[1].median_ms


OLDER_EVERY_S = 60.0
"""Seconds after which the end of a job also collects older garbage, which takes .2 s: Python's own collections run
mostly during jobs, where they do not see it."""


class _Older:
    """Time of this process's last collection of older garbage."""

    collected_at = time.monotonic()


def guarded(
    work: Callable[[], Result],
    device: torch.device,
    began: float,
    build_advice: str,
    *,
    threads: int | None = None,
    collect: bool = True,
) -> Result:
    """Return the result of `work`, or a failed one.

    Args:
        work: evaluates.
        device: what it computes on.
        began: `time.monotonic()` at the beginning of the job, for the charge of what fails outside the training loop.
        build_advice: what to do about a network that cannot be built.
        threads: torch threads meanwhile; None: as they are.
        collect: collect garbage after the job: what `work` has made, and everything after a failure. False for work
            that leaves no garbage behind. Where memory of a GPU is left taken, and every `OLDER_EVERY_S`, everything is
            collected in any case.

    Raises:
        DeviceLost: the GPU has failed, and every later job of this process would.
    """
    failed, held = True, allocated_bytes(device)
    try:
        with torch_threads(threads), collecting_new_objects():
            result = work()
            release_memory(device, collect=collect, cached=share_of_card() < 1)
        failed = False
        return result
    except TrainingFailed as error:
        if error.failure.cause == "out_of_memory" and crowded_out(device):
            return _preempted(device, error.failure.message, error.charged)
        return Result("failed", charged=error.charged, error=error.failure)
    except BuildError as error:
        return Result.failed("invalid_shape", str(error), build_advice, Charge(time.monotonic() - began))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if lost := device_lost(error, device):
            raise lost from error
        if not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "no memory left"
        if crowded_out(device):
            return _preempted(device, reason, Charge(time.monotonic() - began))
        return Result.failed("out_of_memory", f"{device}: {reason}", SMALLER, Charge(time.monotonic() - began))
    finally:
        left_behind = allocated_bytes(device) > held
        overdue = time.monotonic() - _Older.collected_at >= OLDER_EVERY_S
        if failed or left_behind or overdue:  # older objects may hold memory as well
            whole = collect or left_behind or overdue
            release_memory(device, collect=whole, cached=failed or left_behind or share_of_card() < 1)
            if whole:
                _Older.collected_at = time.monotonic()


def _preempted(device: torch.device, reason: str, charged: Charge) -> Result:
    """Return the failure of a trial that other processes on its card are to blame for; it is tried again."""
    message = f"{reason}; other processes have taken more than their share of {device}"
    return Result.failed("preempted", message, "give each worker a larger share of its GPU", charged)
