"""Check that a recipe fits a network and images, before anything is trained."""

from __future__ import annotations

from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.data.split import Split
from nasforge.training.augmentation import check_images
from nasforge.training.depth import freeze, set_drop_path, set_dropout
from nasforge.training.initialisation import check_may_draw, initialise
from nasforge.training.mixing import mixing_of
from nasforge.training.optimisation import optimizer_of


def check_fits(network: nn.Module, recipe: Recipe, split: Split) -> None:
    """Ask of a network what a training by `recipe` would ask of it first.

    Args:
        network: on the meta device is enough; it is changed.
        recipe: how it would be trained.
        split: the images.

    Raises:
        RecipeError: one of the settings is not for this network or these images.
    """
    check_images(recipe, split)
    set_dropout(network, recipe.dropout)
    set_drop_path(network, recipe.drop_path)
    check_may_draw(network, recipe)
    if recipe.zero_init:
        initialise(network, Recipe(zero_init=True), 0)
    mixing_of(network, recipe)
    freeze(network, recipe.frozen_stages)
    if recipe.layer_decay < 1:
        optimizer_of(network, recipe)
