"""A training in phases: its first epochs on fewer or smaller images, its last ones on all of them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nasforge.core.recipe import Recipe, steps_of
from nasforge.data.split import Split
from nasforge.tasks.losses import class_weights


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of a training, with images of its own.

    Attributes:
        until: epochs done at its end, counted from the training's beginning.
        split: to train on; an epoch is one pass over it.
        validation: scored after each of its epochs.
        flops: multiply-adds of one image of this size forward.
    """

    until: int
    split: Split
    validation: Split | None
    flops: float


@dataclass(frozen=True)
class Course:
    """All phases of a training, in order; the last one has the whole data.

    The schedule is counted in epochs: an epoch of few images takes it as far as an epoch of all, in fewer steps.
    """

    phases: Sequence[Phase]
    whole_recipe: Recipe

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return self.phases[-1].until

    def phase(self, epoch: int) -> Phase:
        """Return the phase of an epoch, counted from 0."""
        return next((phase for phase in self.phases if epoch < phase.until), self.phases[-1])

    def steps(self, epoch: int) -> int:
        """Return the steps of an epoch, see `steps_of`."""
        return steps_of(len(self.phase(epoch).split), self.whole_recipe)

    @property
    def full_steps(self) -> int:
        """Of an epoch of the last phase, by which the schedule is counted."""
        return self.steps(self.epochs - 1)

    def place(self, epoch: int, position: int) -> int:
        """Return the position of a step in the schedule."""
        return epoch * self.full_steps + position * self.full_steps // self.steps(epoch)

    def done(self, epoch: int, position: int) -> int:
        """Return the steps taken by then."""
        return sum(self.steps(earlier) for earlier in range(epoch)) + position

    def recipe(self, epoch: int) -> Recipe:
        """Return the recipe of an epoch: sizes in pixels are those of whole images, and shrink with the images."""
        recipe = self.whole_recipe
        ratio = min(self.phase(epoch).split.shape[1:]) / min(self.phases[-1].split.shape[1:])
        names = [name for name in ("crop_pixels", "cutout_pixels") if getattr(recipe, name)]
        return replace(recipe, **{name: max(1, round(getattr(recipe, name) * ratio)) for name in names})

    def to_json(self) -> list[Any]:
        """Return what a continued training must share: each phase's end, number of images and their shape."""
        return [[phase.until, len(phase.split), list(phase.split.shape)] for phase in self.phases]


def order_of(split: Split, images: int, sampling: str, generator: torch.Generator) -> Tensor:
    """Draw the positions of one epoch's images.

    Args:
        split: images to train on.
        images: number of positions, at most the number of images.
        sampling: `uniform`: every image at most once; `balanced`: with replacement, all classes equally often.
        generator: source of randomness.
    """
    if sampling == "uniform":
        return torch.randperm(len(split), generator=generator)[:images]
    weights, images = class_weights(split)[split.labels], min(images, len(split))
    return torch.multinomial(weights, images, replacement=True, generator=generator)
