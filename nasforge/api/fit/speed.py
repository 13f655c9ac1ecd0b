"""The speed of a training step on this machine."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from nasforge.core.recipe import Recipe
from nasforge.data import Split
from nasforge.training.loop import train

_PATIENCE_S = 2.0
_STEPS, _TIMES = 6, 3
"""Steps of a training that is timed, and such trainings, at most."""


def fastest_threads(network: torch.nn.Module, split: Split, recipe: Recipe, device: torch.device) -> tuple[int, float]:
    """Return the number of torch threads with which a step is fastest, one or all, and its seconds; torch keeps it.

    Small networks, and machines that do other work, are faster with one.
    """
    every = torch.get_num_threads()
    measured = []
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        measured.append((second_per_step(network, split, recipe, device), threads))
    per_step, threads = min(measured)
    torch.set_num_threads(threads)
    return threads, per_step


def second_per_step(network: torch.nn.Module, split: Split, recipe: Recipe, device: torch.device) -> float:
    """Return the seconds of one optimizer step: the best of a few short trainings, after a step that warms torch up.

    The first step makes torch load and choose its kernels; on a machine that does other work this takes seconds.
    """
    recipe = replace(recipe, precise_bn=0)  # once a training, so no part of a step
    few = split.subset(torch.arange(min(len(split), _STEPS * recipe.batch_size)))
    steps = max(1, math.ceil(len(few) / recipe.batch_size))
    train(network, few.subset(torch.arange(min(len(few), recipe.batch_size))), recipe, epochs=1, seed=0, device=device)
    times, end = list[float](), time.monotonic() + _PATIENCE_S
    while len(times) < _TIMES and (not times or time.monotonic() + times[-1] * steps < end):
        began = time.monotonic()
        train(network, few, recipe, epochs=1, seed=0, device=device)
        times.append((time.monotonic() - began) / steps)
    return min(times)
