"""Optimizer, schedule and averaged weights of a recipe, by timm's factories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from nasforge.training.recipe import Recipe


def optimizer_of(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer over all parameters; weight decay spares biases and normalisations (tensors of one dimension)."""
    special = {"nesterov": recipe.nesterov and recipe.momentum > 0} if recipe.optimizer == "sgd" else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        network,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        filter_bias_and_bn=True,
        **special,
    )
    return optimizer


def schedule_of(optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, steps_per_epoch: int) -> Any:
    """timm's scheduler, counted in steps: `step_update(n)` sets the rate of step n, whatever came before.

    One-cycle follows "Super-Convergence", Smith & Topin 2018, https://arxiv.org/abs/1708.07120; momentum stays put.
    """
    total = epochs * steps_per_epoch
    rise = round(0.3 * total) if recipe.schedule == "one_cycle" else round(recipe.warmup_epochs * steps_per_epoch)
    rise = min(rise, total - 1)
    begin = recipe.learning_rate / (25 if recipe.schedule == "one_cycle" else rise + 1)
    stair = max(1, round((recipe.decay_epochs or epochs / 3) * steps_per_epoch))
    all_settings: dict[str, dict[str, Any]] = {
        "cosine": {"sched": "cosine"},
        "one_cycle": {"sched": "cosine"},
        "step": {"sched": "step", "decay_epochs": stair, "decay_rate": recipe.decay},
        "exponential": {"sched": "step", "decay_epochs": 1, "decay_rate": recipe.decay ** (1 / stair)},
        "constant": {"sched": "step", "decay_epochs": total, "decay_rate": 1.0},
    }
    schedule, _ = create_scheduler_v2(
        optimizer,
        num_epochs=total - rise,
        warmup_epochs=rise,
        warmup_prefix=True,
        warmup_lr=begin,
        min_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=1,  # one "epoch" of timm's is one step of ours
        **all_settings[recipe.schedule],
    )
    return schedule


def average_of(network: nn.Module, recipe: Recipe) -> ModelEmaV3 | None:
    """The moving average of weights and statistics; its decay rises with the steps, so short trainings profit too."""
    return ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None


_RECIPES = ("lr", "initial_lr", "lr_scale", "weight_decay", "momentum", "nesterov")
"""Of an optimizer's groups of parameters: what the recipe says. The rest is where its training stands."""


def adopt(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from the state of another optimizer of this kind, by this one's own recipe."""
    own = [{key: group[key] for key in _RECIPES if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)
