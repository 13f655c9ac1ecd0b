"""One training by several processes of `torch.distributed`: each computes its share of every batch.

The outcome is that of one process at the same batch, up to the order of sums: the processes draw the same batches and
augmentations, the shares' logits are put together again, so any loss sees the whole batch; gradients are summed, and
normalisation takes the statistics of the whole batch. (Torch's DistributedDataParallel averages the gradients of losses
of shares, which for mixed or weighted losses is another thing; its SyncBatchNorm knows no CPU.) The network keeps its
modules and their names, so recipes, checkpoints and saving are those of one process. Dropout and drop-path draw the
same for every share and so differ from a single process, as they do from seed to seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.recipe import Recipe


def check_batch(recipe: Recipe, workers: int, images: int) -> None:
    """Refuse batches that cannot be divided evenly among the processes: raises ConfigError.

    Args:
        recipe: of the training.
        workers: processes that train one network.
        images: that are trained on; fewer than a batch are one batch.
    """
    if workers > 1 and recipe.manifold_mixup:
        raise ConfigError(
            "train.manifold_mixup mixes a batch inside the network, which has only its share of it on each worker; "
            "use mixup, or one worker per network",
            kind="unsupported",
            key="train.manifold_mixup",
        )
    if workers > 1 and recipe.keep_last_batch:
        raise ConfigError(
            "train.keep_last_batch is true, and an incomplete batch cannot be divided evenly among several workers; "
            "use one worker per network",
            kind="unsupported",
            key="train.keep_last_batch",
        )
    if recipe.batch_size % workers:
        raise ConfigError(
            f"train.batch_size {recipe.batch_size} cannot be divided among {workers} workers; "
            "use a number of workers that divides it",
            kind="conflict",
            key="train.batch_size",
        )
    if images < recipe.batch_size and images % workers:
        raise ConfigError(
            f"the {images} training images are fewer than train.batch_size {recipe.batch_size}, and cannot be divided "
            f"among {workers} workers; use a smaller batch, or one worker per network",
            kind="conflict",
            key="train.batch_size",
        )


@contextmanager
def data_parallel(network: nn.Module) -> Iterator[None]:
    """Split each training batch of `network` over the processes, and return the logits of all of it.

    Every process of the default group enters with the same network and calls it with the same batches.
    """
    rank, world = dist.get_rank(), dist.get_world_size()

    def take_share(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return tuple(whole.chunk(world)[rank] for whole in inputs) if _learns(module) else None

    def put_together(module: nn.Module, inputs: Any, logits: Tensor) -> Tensor | None:
        whole: Tensor | None = _Gather.apply(logits, lambda: _sum_gradients(module)) if _learns(module) else None
        return whole

    hooks = [network.register_forward_pre_hook(take_share), network.register_forward_hook(put_together)]
    try:
        with _WholeBatchStatistics():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def checkpoint_of_process(checkpoint: Path, scratch: Path) -> Path:
    """Return this process's checkpoint: the real file for the first one, unread copies for the others.

    All processes begin from the same file, and have read it before the first one writes again.
    """
    mine = checkpoint
    if dist.get_rank():
        mine = scratch / f"rank-{dist.get_rank()}.pt"
        if checkpoint.exists():
            shutil.copyfile(checkpoint, mine)
    dist.barrier()
    return mine


def check_failure(reason: str, group: Any, seconds: float = 60.0) -> None:
    """Make sure that a training has failed in every process: a network can be too large for one GPU of several.

    The others would wait for this process until their backend loses patience, for ten minutes or more.

    Args:
        reason: of the failure, in words.
        group: all processes, with backend gloo.
        seconds: how long the others may take to fail likewise.

    Raises:
        SearchError: some process has not failed.
    """
    try:
        dist.monitored_barrier(group, timeout=timedelta(seconds=seconds))
    except RuntimeError as error:
        raise SearchError(
            f"one of {dist.get_world_size()} workers failed alone: {reason}. Leave this network out, or use one worker "
            "per network",
            kind="failed",
        ) from error


def _learns(module: nn.Module) -> bool:
    return module.training and torch.is_grad_enabled()


class _Gather(torch.autograd.Function):
    """The logits of all shares; every process has the whole loss, so each share's gradient is a slice of it."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, at_the_end: Callable[[], None]) -> Tensor:
        ctx.at_the_end = at_the_end
        shares = [torch.empty_like(share) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        torch.autograd.Variable._execution_engine.queue_callback(ctx.at_the_end)  # as DDP's reducer does
        return gradients[0].chunk(dist.get_world_size())[dist.get_rank()], None


def _sum_gradients(network: nn.Module) -> None:
    """Add up what the processes found, in one message."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    totals = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view_as(gradient))


class _Sum(torch.autograd.Function):
    """A tensor's sum over all processes; each of them has a part of the loss, so gradients are summed likewise."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        return _summed(mine)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(mine: Tensor) -> Tensor:
    total = mine.clone()
    dist.all_reduce(total)
    return total


class _WholeBatchStatistics(TorchFunctionMode):
    """Batch normalisation over the shares of all processes, whichever layer calls it; gradients pass through."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(named or {})
        if function is not batch_norm:
            return function(*arguments, **options)
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        options |= dict(zip(names, arguments, strict=False))
        if not options.get("training") or not torch.is_grad_enabled():
            return function(**options)
        return _normalised(**options)


def _normalised(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `torch.nn.functional.batch_norm` in training over all processes' shares (N x C x ..., equal N)."""
    images = input.float()
    axes = [0, *range(2, images.dim())]
    shape = [1, -1, *[1] * (images.dim() - 2)]
    count = images.numel() // images.shape[1] * dist.get_world_size()
    mean: Tensor = _Sum.apply(images.sum(axes)) / count
    centred = images - mean.view(shape)
    variance: Tensor = _Sum.apply(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * count / max(1, count - 1)).to(running_var.dtype), momentum)
    out: Tensor = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(input.dtype)
