"""What training a supernet needs besides the loop: its recipe, its charge, its data, and statistics afterwards."""

from __future__ import annotations

import torch
from torch import nn

from nasforge.core.architecture import TRAIN, Architecture
from nasforge.core.errors import ConfigError
from nasforge.core.space import SearchSpace
from nasforge.costs import count_flops
from nasforge.data.augment import normalise
from nasforge.data.part import Part
from nasforge.supernet.mixed import Supernet
from nasforge.supernet.paths import Draw

CHARGED_PATHS = 8
RECALIBRATION_BATCHES = 16
RECALIBRATION_BATCH_SIZE = 128


def recipe_point(space: SearchSpace) -> Architecture:
    """A point of `space` for its `train.*` decisions, which a supernet shares among all paths.

    Raises:
        ConfigError: one of them has several values left.
    """
    several = [key for key, domain in space.domains.items() if key.startswith(TRAIN) and domain.size > 1]
    if several:
        point = space.default_point()
        example = ", ".join(f'"{key}": {point.values.get(key, "...")!r}' for key in several[:2])
        raise ConfigError(
            f"train_shared: space '{space.name}' still decides {', '.join(several)}; all paths of a supernet share one "
            f"recipe, so leave these one value: space.fixed({{{example}, ...}})"
        )
    return space.default_point()


def mean_flops(supernet: Supernet, draw: Draw, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of a path for one image, as the mean over the first paths: what a step is charged at."""
    total = 0
    for step in range(CHARGED_PATHS):
        supernet.activate(draw(step))
        total += count_flops(supernet, shape)
    return total / CHARGED_PATHS


def halves(part: Part, share: float, seed: int) -> tuple[Part, Part]:
    """A training part divided in two at random: for the weights (`share` of it) and for the alphas."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(share * len(part)))
    return part.subset(order[:cut].sort().values), part.subset(order[cut:].sort().values)


def recalibrate(
    network: nn.Module,
    part: Part,
    *,
    device: torch.device | str = "cpu",
    batches: int = RECALIBRATION_BATCHES,
    batch_size: int = RECALIBRATION_BATCH_SIZE,
    seed: int = 0,
) -> None:
    """Replace BN's running statistics by their mean over training batches; weights stay as they are.

    Statistics gathered while other paths ran do not fit this one (Guo et al. 2020, section 3.4).

    Args:
        network: takes normalised images; changed in place, its mode restored.
        part: the training part.
        device: where the network is.
        batches: how many, fewer if the part has fewer; always the same ones for a seed.
        batch_size: of each.
        seed: chooses the images.
    """
    device = torch.device(device)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    modes = {module: module.training for module in network.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    network.eval()  # dropout off
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))
    size = min(batch_size, len(part))
    order = order[: min(batches, len(part) // size) * size]
    try:
        with torch.no_grad():
            for images, _ in part.batches(order, size, device):
                network(normalise(images, part.mean, part.std))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in momenta.items():
            norm.momentum = momentum
