"""What training a supernet needs besides the loop: its recipe, its charge, its data."""

from __future__ import annotations

import torch

from nasforge.core.architecture import TRAIN, Architecture
from nasforge.core.errors import ConfigError, Problem
from nasforge.core.recipe import SETTINGS, Recipe
from nasforge.core.space import SearchSpace
from nasforge.data.part import Part
from nasforge.models.costs import count_flops
from nasforge.supernet.network import Supernet
from nasforge.supernet.paths import Draw

CHARGED_PATHS = 8


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


def check_shared(recipe: Recipe) -> None:
    """Whether a supernet can be trained so.

    Raises:
        ConfigError: with every setting that cannot be.
    """
    problems = [
        Problem(f"is not for supernets: {SETTINGS[name].not_shared}; leave it out", key=TRAIN + name)
        for name in recipe.changed()
        if SETTINGS[name].not_shared
    ]
    if problems:
        raise ConfigError(problems)


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
