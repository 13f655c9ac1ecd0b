"""Optimizer and schedule of a recipe, by timm's factories."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.training.depth import layer_groups

_FUSED = frozenset({"adam", "adamw"})
"""Optimizers that torch has as one kernel, on CPUs and GPUs; its SGD as one kernel cannot resume if some parameters
had no gradient before, as in a supernet."""


def optimizer_of(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of all parameters; weight decay spares one-dimensional tensors: biases, normalisations.

    timm's Muon takes matrices and convolutions, those flattened to matrices; tensors of one dimension, depthwise
    convolutions and very narrow ones learn by AdamW at the same rate. "Muon is Scalable for LLM Training", Liu et al.
    2025, https://arxiv.org/abs/2502.16982, scales the steps so that both take rates as for AdamW.

    Raises:
        ConfigError: a rate by layer is wanted of a network without layer order.
    """
    special: dict[str, Any] = {}
    if recipe.optimizer in ("sgd", "muon"):
        special["nesterov"] = recipe.nesterov and recipe.momentum > 0
    if recipe.optimizer in _FUSED:  # one call for all tensors: a twentieth of a small network's step
        special["fused"] = True
    spared: Collection[str] = getattr(network, "no_weight_decay", set)()  # what timm's own networks name
    if recipe.layer_decay < 1:
        groups = layer_groups(network, recipe.layer_decay, spared)
    else:
        groups = param_groups_weight_decay(network, 1.0, no_weight_decay_list=spared)
    for group in groups:  # timm divides otherwise at a decay of 0, and a training may resume at another one
        group["weight_decay"] *= recipe.weight_decay
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=0.0,
        momentum=recipe.momentum,
        betas=(recipe.beta1, recipe.beta2),
        **special,
    )
    return optimizer


def schedule_of(optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int, steps_per_epoch: int) -> Any:
    """Make timm's scheduler, counted in steps: `step_update(n)` sets the rate of step n, whatever came before.

    One-cycle follows "Super-Convergence", Smith & Topin 2018, https://arxiv.org/abs/1708.07120; momentum stays put.
    """
    total = epochs * steps_per_epoch
    rise = round(0.3 * total) if recipe.schedule == "one_cycle" else round(recipe.warmup_epochs * steps_per_epoch)
    rise = min(rise, total - 1)
    begin = recipe.learning_rate / (25 if recipe.schedule == "one_cycle" else rise + 1)
    if recipe.schedule == "inverse_time":
        horizon = (recipe.decay_epochs or epochs / 3) * steps_per_epoch
        return InverseTime(optimizer, (1 / recipe.decay - 1) / horizon, rise, begin)
    stair = max(1, round((recipe.decay_epochs or epochs / 3) * steps_per_epoch))
    falls = "cosine" if total - rise > 1 else "constant"  # one step at the whole rate; timm's cosine warns of it
    all_settings: dict[str, dict[str, Any]] = {
        "cosine": {"sched": falls},
        "one_cycle": {"sched": falls},
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


_RECIPES = ("lr", "initial_lr", "lr_scale", "weight_decay", "momentum", "nesterov", "betas")
"""Keys of an optimizer's parameter groups that the recipe sets; the others are the state of its training."""


def adopt(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the state of another optimizer of this kind, but keep this one's recipe."""
    settings_of_groups = [{key: group[key] for key in _RECIPES if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, settings in zip(optimizer.param_groups, settings_of_groups, strict=True):
        group.update(settings)


class InverseTime(Scheduler):  # type: ignore[misc]
    """Rate / (1 + slope * t) after a linear rise, the one of the usual schedules that timm does not have.

    "A Stochastic Approximation Method", Robbins & Monro 1951, https://doi.org/10.1214/aoms/1177729586.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, slope: float, rise: int, begin: float) -> None:
        super().__init__(optimizer, "lr", t_in_epochs=False)
        self.slope, self.rise, self.begin = slope, rise, begin

    def _get_lr(self, t: int) -> list[float]:
        if t < self.rise:
            return [self.begin + (value - self.begin) * t / self.rise for value in self.base_values]
        return [value / (1 + self.slope * (t - self.rise)) for value in self.base_values]
