"""Training a supernet: one path of it a step, by the same loop that trains a single network."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import nn

from nasforge.core.architecture import TRAIN, Architecture
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.space import SearchSpace
from nasforge.costs import count_flops
from nasforge.data.augment import normalise
from nasforge.data.part import Part
from nasforge.supernet.mixed import Supernet, build_supernet

Draw: TypeAlias = Callable[[random.Random], Architecture]
"""Draws the path of one training step."""

CHARGED_PATHS = 8
RECALIBRATION_BATCHES = 16
RECALIBRATION_BATCH_SIZE = 128


def uniform(space: SearchSpace, paths: Sequence[Architecture]) -> Draw:
    """One path a step, every option equally likely.

    "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Guo et al. 2020,
    https://arxiv.org/abs/1904.00420.

    Args:
        space: whose points are the paths.
        paths: draw from these only; empty for all.
    """
    return (lambda rng: paths[rng.randrange(len(paths))]) if paths else space.sample


RELAXATIONS: dict[str, Callable[[SearchSpace, Sequence[Architecture]], Draw]] = {"uniform": uniform}


class SampledPaths(nn.Module):
    """A supernet that takes another path at every step of its training; in eval mode it stays on the last.

    Paths are drawn from torch's default generator, whose state the training's checkpoint holds: a training that is
    continued takes the paths that it would have taken.

    Attributes:
        supernet: what is trained.
    """

    def __init__(self, supernet: Supernet, draw: Draw) -> None:
        super().__init__()
        self.supernet = supernet
        self._draw = draw
        supernet.activate(draw(random.Random(0)))  # so that it can run before its first step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N x C x H x W -> N x classes, through a path drawn anew in training mode."""
        if self.training:
            seed = int(torch.randint(2**62, ()))
            self.supernet.activate(self._draw(random.Random(seed)))
        out: torch.Tensor = self.supernet(x)
        return out


def relaxation_of(name: str) -> Callable[[SearchSpace, Sequence[Architecture]], Draw]:
    """The relaxation registered as `name`.

    Raises:
        ConfigError: there is none.
    """
    if name not in RELAXATIONS:
        raise ConfigError(f"train_shared: no relaxation '{name}'; {did_you_mean(name, RELAXATIONS)}")
    return RELAXATIONS[name]


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


def mean_flops(space: SearchSpace, draw: Draw, shape: tuple[int, int, int], classes: int) -> float:
    """Multiply-adds of a path for one image, as the mean over a fixed sample of paths: what a step is charged at."""
    with torch.device("meta"):
        supernet = build_supernet(space, shape[0], classes)
    total = 0
    for number in range(CHARGED_PATHS):
        supernet.activate(draw(random.Random(number)))
        total += count_flops(supernet, shape)
    return total / CHARGED_PATHS


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
