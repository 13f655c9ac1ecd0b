"""The speed of a training step on this machine."""

from __future__ import annotations

import math
import time

import torch

from nasforge.data import Part
from nasforge.training.loop import train
from nasforge.training.recipe import Recipe

_PATIENCE_S = 2.0


def fastest_threads(network: torch.nn.Module, part: Part, recipe: Recipe, device: torch.device) -> tuple[int, float]:
    """Return the number of torch threads with which a step is fastest, one or all, and its seconds; torch keeps it.

    Small networks, and machines that do other work, are faster with one.
    """
    every = torch.get_num_threads()
    found = []
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        found.append((second_per_step(network, part, recipe, device), threads))
    per_step, threads = min(found)
    torch.set_num_threads(threads)
    return threads, per_step


def second_per_step(network: torch.nn.Module, part: Part, recipe: Recipe, device: torch.device) -> float:
    """Seconds of one optimizer step, measured on a few batches after some that warm the machine up."""
    few = part.subset(torch.arange(min(len(part), 6 * recipe.batch_size)))
    steps = max(1, math.ceil(len(few) / recipe.batch_size))
    began = time.monotonic()
    train(network, few, recipe, epochs=1, seed=0, device=device)
    if time.monotonic() - began > _PATIENCE_S:  # a slow machine is not measured twice
        return (time.monotonic() - began) / steps
    began = time.monotonic()
    train(network, few, recipe, epochs=2, seed=0, device=device)
    return (time.monotonic() - began) / (2 * steps)
