"""Initial weights of convolutions and linear layers, if a recipe sets them instead of the builder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from nasforge.core.errors import RecipeError
from nasforge.core.recipe import Recipe
from nasforge.models.blocks.conv import zero_init_last_norms

_DRAWS: dict[str, Callable[..., Tensor]] = {
    "he": partial(nn.init.kaiming_normal_, mode="fan_in", nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
}


def initialise(network: nn.Module, recipe: Recipe, seed: int) -> None:
    """Redraw the weights by the recipe's `init`, biases zero, and start residual branches at zero if it says so.

    He: https://arxiv.org/abs/1502.01852. Xavier: Glorot & Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html.
    Orthogonal: Saxe et al. 2014, https://arxiv.org/abs/1312.6120.

    Raises:
        RecipeError: `zero_init` without a residual branch that ends in a normalisation, or anything but the builder's
            weights where these are pretrained.
    """
    check_may_draw(network, recipe)
    if recipe.init != "builder":
        draw = _DRAWS[recipe.init]
        device = next(network.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        for module in network.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                draw(module.weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    if recipe.zero_init and not zero_init_last_norms(network):
        raise RecipeError(
            "train.zero_init is set, but the network has no residual branch that ends in a normalisation; "
            "leave the setting out",
            kind="unsupported",
            key="train.zero_init",
        )


def check_may_draw(network: nn.Module, recipe: Recipe) -> None:
    """Refuse a recipe that would overwrite the weights that the builder starts from: raises RecipeError."""
    if getattr(network, "pretrained", False) and (recipe.init != "builder" or recipe.zero_init):
        message = "would overwrite the weights that the builder starts from; leave train.init and train.zero_init out"
        raise RecipeError(
            f"{'train.zero_init' if recipe.init == 'builder' else 'train.init'} {message}",
            kind="conflict",
            key="train.init",
        )
