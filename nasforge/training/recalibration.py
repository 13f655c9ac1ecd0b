"""New batch statistics for weights that were not trained as they are."""

from __future__ import annotations

import torch
from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.data.part import Part
from nasforge.training.augmentation import augmented
from nasforge.training.depth import is_frozen

RECALIBRATION_BATCHES = 16
RECALIBRATION_BATCH_SIZE = 128


def recalibrate(
    network: nn.Module,
    part: Part,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    batches: int = RECALIBRATION_BATCHES,
    batch_size: int = RECALIBRATION_BATCH_SIZE,
    seed: int = 0,
) -> None:
    """Replace BN's running statistics by their mean over training batches; weights stay as they are.

    Statistics gathered while other paths of a supernet ran do not fit this one (Guo et al. 2020, section 3.4), nor do
    those of single epochs fit their mean (Izmailov et al. 2018, section 3.2). The images are augmented as in training,
    for the weights fit those statistics: plain images cost 9 % of accuracy on photos with a bright background, whose
    crops have black borders (docs/reference/benchmarks.md).

    Args:
        network: takes normalised images; changed in place, its mode restored.
        part: the training part.
        recipe: augments its images.
        device: where the network is.
        batches: how many, fewer if the part has fewer; always the same ones for a seed.
        batch_size: of each.
        seed: chooses the images and their augmentation.
    """
    device = torch.device(device)
    norms = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not is_frozen(module)
    ]
    if not norms:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    network.eval()  # dropout off
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    augmenting = torch.Generator(device).manual_seed(seed)
    size = min(batch_size, len(part))
    order = order[: min(batches, len(part) // size) * size]
    try:
        with torch.no_grad():
            for images, _ in part.batches(order, size, device):
                network(augmented(images, part, recipe, augmenting))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
