"""New batch statistics for weights that were not trained as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.data.split import Split
from nasforge.training.augmentation import augmented
from nasforge.training.depth import frozen_modules

RECALIBRATION_BATCHES = 16
RECALIBRATION_BATCH_SIZE = 128


def recalibrate(
    network: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    batches: int = RECALIBRATION_BATCHES,
    batch_size: int = RECALIBRATION_BATCH_SIZE,
    seed: int = 0,
    layout: torch.memory_format = torch.contiguous_format,
) -> None:
    """Replace BN's running statistics by their mean over training batches; weights stay as they are.

    Statistics gathered while other paths of a supernet ran do not fit this one (Guo et al. 2020, section 3.4), nor do
    those of single epochs fit their mean (Izmailov et al. 2018, section 3.2). The images are augmented as in training,
    for the weights fit those statistics: plain images cost 9 % of accuracy on photos with a bright background, whose
    crops have black borders (docs/reference/benchmarks.md).

    Args:
        network: takes normalised images; changed in place, its mode restored.
        split: the training split.
        recipe: augments its images.
        device: where the network is.
        batches: how many, fewer if the split has fewer; always the same ones for a seed.
        batch_size: of each.
        seed: chooses the images and their augmentation.
        layout: memory format of the images on a GPU; a CPU takes them as they are.
    """
    device = torch.device(device)
    frozen = set(frozen_modules(network))
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module not in frozen
    ]
    if not norms:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    network.eval()  # dropout off
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    hooks = [norm.register_forward_pre_hook(_PlainMean()) for norm in norms]
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    augmenting = torch.Generator(device).manual_seed(seed)
    host = torch.Generator().manual_seed(seed) if device.type == "cuda" else None
    size = min(batch_size, len(split))
    order = order[: min(batches, len(split) // size) * size]
    try:
        with torch.no_grad():
            for images, _ in split.batches(order, size, device):
                inputs = augmented(images, split, recipe, augmenting, host)
                network(inputs.contiguous(memory_format=layout) if device.type == "cuda" else inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum


class _PlainMean:
    """Hook of a BN layer that makes its running statistics the plain mean over all batches.

    That is what a momentum of None asks for, but torch then reads the count of batches from the device in every layer.
    """

    def __init__(self) -> None:
        self._batches = 0

    def __call__(self, norm: Any, inputs: Any) -> None:
        self._batches += 1
        norm.momentum = 1.0 / self._batches
