"""Predictions and metrics of a network on a split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasforge.core.errors import ConfigError
from nasforge.data.augment import normalise
from nasforge.data.split import Split
from nasforge.tasks.classification import CLASSIFICATION
from nasforge.tasks.task import Answers, Task


@dataclass(frozen=True, eq=False)
class Validation:
    """Validation settings of a training.

    Attributes:
        split: images to score.
        extra: metrics to compute in addition to the usual ones, see `Task.on_request`.
        at: epochs to score after, in addition to the last; None: after every epoch. A recipe that stops early needs a
            score after every epoch and gets it.
    """

    split: Split
    extra: Collection[str] = ()
    at: Collection[int] | None = None


def answers(
    network: nn.Module,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    bf16: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
    task: Task = CLASSIFICATION,
) -> Answers:
    """Ask `network`, which takes normalised images, in eval mode; its modes are restored."""
    raw, loss = outputs_and_loss(
        network, split, device=device, batch_size=batch_size, bf16=bf16, memory_format=memory_format, task=task
    )
    return Answers(split.labels.numpy(), task.decode(raw).cpu().numpy(), loss)


def outputs_and_loss(
    network: nn.Module,
    split: Split,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    bf16: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
    task: Task = CLASSIFICATION,
) -> tuple[torch.Tensor, float]:
    """Return the outputs of `network` before `Task.decode`, N x classes on its device, and the mean loss of an image.

    The network takes normalised images. It is asked in eval mode, and its modes are restored.
    """
    device = torch.device(device)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    order = torch.arange(len(split))
    outputs, loss = [], torch.zeros((), dtype=torch.float64, device=device)
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for images, labels in split.batches(order, batch_size, device):
                logits = network(
                    normalise(images, split.mean, split.std).contiguous(memory_format=memory_format)
                ).float()
                loss += task.loss(logits, labels)
                outputs.append(logits)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(outputs), float(loss) / len(split)


def score(
    network: nn.Module, split: Split, *, extra: Collection[str] = (), task: Task = CLASSIFICATION, **settings: Any
) -> dict[str, float]:
    """Compute the metrics of a network on a split; `settings` are those of `answers`."""
    values = task.scores(answers(network, split, task=task, **settings), extra)
    for name, value in values.items():
        try:
            float(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"task {type(task).__name__}: its metric '{name}' is {value!r}, expected a number",
                kind="type",
                key="task",
            ) from None
    return values
