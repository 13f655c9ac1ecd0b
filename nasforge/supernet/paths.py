"""Which path of a supernet a training step takes: uniform, fair, or one of those that a strategy names."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import nn

from nasforge.core.architecture import Architecture, Value
from nasforge.core.space import Decision, SearchSpace
from nasforge.models.costs import count_flops
from nasforge.supernet.network import Supernet

Draw: TypeAlias = Callable[[int], Architecture]
"""The path of training step 0, 1, 2, ...: a function of the step alone, so that a continued training takes the same."""


def uniform(space: SearchSpace, paths: Sequence[Architecture], seed: int) -> Draw:
    """Draw every option with equal probability.

    "Single Path One-Shot Neural Architecture Search with Uniform Sampling", Guo et al. 2020,
    https://arxiv.org/abs/1904.00420.

    Args:
        space: whose points are the paths.
        paths: draw from these only; empty for all.
        seed: of the draws.
    """

    def draw(step: int) -> Architecture:
        rng = random.Random(f"{seed}/{step}")
        return paths[rng.randrange(len(paths))] if paths else space.sample(rng)

    return draw


def fair(space: SearchSpace, paths: Sequence[Architecture], seed: int) -> Draw:
    """Take every option exactly once in as many steps as its decision has options, in a new order each time.

    The strict fairness of "FairNAS", Chu et al. 2021, https://arxiv.org/abs/1907.01845; here the weights are updated
    after every path, not after every round. A nested decision counts the steps in which it is active.

    Args:
        space: whose points are the paths.
        paths: every one of these once in as many steps as there are paths; empty for all of the space.
        seed: of the order.
    """

    def in_turn(key: str, count: int, values: Sequence[Value] | Sequence[Architecture]) -> int:
        order = list(range(len(values)))
        random.Random(f"{seed}/{key}/{count // len(values)}").shuffle(order)
        return order[count % len(values)]

    def draw(step: int) -> Architecture:
        if paths:
            return paths[in_turn("", step, paths)]
        taken: dict[str, Value] = {}

        def walk(decisions: Sequence[Decision], count: int) -> None:
            for decision in decisions:
                options = decision.domain.values
                value = options[in_turn(decision.key, count, options)]
                taken[decision.key] = value
                walk(decision.domain.branch(value), count // len(options))

        walk(space.decisions, step)
        return space.decide(lambda key, _: taken[key])

    return draw


PATHS: dict[str, Callable[[SearchSpace, Sequence[Architecture], int], Draw]] = {"uniform": uniform, "fair": fair}


CHARGED_PATHS = 8


def mean_flops(supernet: Supernet, draw: Draw, shape: tuple[int, int, int]) -> float:
    """Return the multiply-adds that a step is charged for one image: the mean over the first paths."""
    total = 0
    for step in range(CHARGED_PATHS):
        supernet.activate(draw(step))
        total += count_flops(supernet, shape)
    return total / CHARGED_PATHS


class SampledPaths(nn.Module):
    """A supernet that takes another path at every step of its training; in eval mode it stays on the last.

    Attributes:
        supernet: what is trained.
        step: steps taken; a buffer, so that the training's checkpoint holds it.
    """

    step: torch.Tensor

    def __init__(self, supernet: Supernet, draw: Draw) -> None:
        super().__init__()
        self.supernet = supernet
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._draw = draw
        self._next: int | None = 0  # `step` as a number, so that a GPU is not waited for in every step
        self.register_load_state_dict_post_hook(_forget_next)  # type: ignore[no-untyped-call]
        supernet.activate(draw(0))  # so that it can run before its first step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run N x C x H x W -> N x classes, through the next path in training mode."""
        if self.training:
            number = int(self.step) if self._next is None else self._next
            self.supernet.activate(self._draw(number))
            self._next = number + 1
            self.step += 1
        out: torch.Tensor = self.supernet(x)
        return out


def _forget_next(paths: nn.Module, unused: object) -> None:
    assert isinstance(paths, SampledPaths)  # noqa: S101 - torch passes the module that it is registered on
    paths._next = None
