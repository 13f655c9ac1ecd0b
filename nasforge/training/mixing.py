"""Batches mixed with themselves: mixup, CutMix, and mixup of what a layer in the middle is given."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nasforge.core.errors import RecipeError
from nasforge.core.recipe import Recipe
from nasforge.tasks.task import Criterion
from nasforge.training.depth import layers_of

_KINDS = ("mixup", "cutmix", "manifold_mixup")


@dataclass(frozen=True)
class Mix:
    """Mixture of one batch: every image with its predecessor (images come in random order).

    Attributes:
        kind: `mixup`, `cutmix` or `manifold_mixup`.
        share: of an image in the mix; the rest is its partner's.
        box: rows and columns (from, to, from, to) that CutMix takes from the partner.
        layer: what `manifold_mixup` mixes the input of.
    """

    kind: str
    share: float
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    layer: nn.Module | None = None

    def logits(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Return the network's logits of the mixed images, N x C x H x W -> N x classes."""
        if self.layer is not None:
            hook = self.layer.register_forward_pre_hook(lambda layer, args: (self._blend(args[0]), *args[1:]))
            try:
                return network(inputs)
            finally:
                hook.remove()
        return network(self._paste(inputs) if self.kind == "cutmix" else self._blend(inputs))

    def loss(self, criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss by each of the two labels, in the proportion of their images."""
        return self.share * criterion(logits, labels) + (1 - self.share) * criterion(logits, labels.roll(1))

    def _blend(self, x: Tensor) -> Tensor:
        return self.share * x + (1 - self.share) * x.roll(1, 0)

    def _paste(self, images: Tensor) -> Tensor:
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
        return mixed


class Unmixed:
    """A batch that stays as it is."""

    def logits(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Return the network's logits, N x C x H x W -> N x classes."""
        return network(inputs)

    def loss(self, criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss."""
        return criterion(logits, labels)


Mixing: TypeAlias = Callable[[Tensor, torch.Generator], Mix | Unmixed]
"""Draw how to mix a batch, from its inputs and the training's generator."""


def mixing_of(network: nn.Module, recipe: Recipe) -> Mixing:
    """Return the function that draws how to mix each batch. For a recipe that mixes nothing it draws no number.

    Of several kinds that are on, every batch takes one, each as likely. All images of a batch share one share,
    Beta(a, a), as in the papers: "mixup", Zhang et al. 2018, https://arxiv.org/abs/1710.09412; "CutMix", Yun et al.
    2019, https://arxiv.org/abs/1905.04899; "Manifold Mixup", Verma et al. 2019, https://arxiv.org/abs/1806.05236.

    Raises:
        RecipeError: `manifold_mixup` with a network that has no order of layers, or in data-parallel training.
    """
    kinds = [kind for kind in _KINDS if getattr(recipe, kind)]
    layers = list(layers_of(network).values())
    if recipe.manifold_mixup and not layers:
        raise RecipeError(
            "train.manifold_mixup is set, but the network has no layer order; use mixup or cutmix",
            kind="unsupported",
            key="train.manifold_mixup",
        )
    if recipe.manifold_mixup and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        # a layer sees this process's share of the batch, in which other images are neighbours
        raise RecipeError(
            "train.manifold_mixup is set, but several processes share each batch; use mixup or cutmix",
            kind="unsupported",
            key="train.manifold_mixup",
        )

    def draw(inputs: Tensor, generator: torch.Generator) -> Mix:
        # one number of the training's generator decides all, so that a continued training mixes alike
        rng = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        kind = rng.choice(kinds)
        alpha = getattr(recipe, kind)
        share = rng.betavariate(alpha, alpha)
        if kind == "manifold_mixup":
            return Mix(kind, share, layer=rng.choice(layers))
        if kind == "mixup":
            return Mix(kind, share)
        height, width = inputs.shape[2:]
        edge = math.sqrt(1 - share)
        rows, columns = (_stretch(length, edge, rng) for length in (height, width))
        area = (rows[1] - rows[0]) * (columns[1] - columns[0])
        return Mix(kind, 1 - area / (height * width), (*rows, *columns))

    return draw if kinds else lambda inputs, generator: Unmixed()


def _stretch(length: int, share: float, rng: random.Random) -> tuple[int, int]:
    """Draw an interval of about `share` of `length`, its centre anywhere, cut off at the ends."""
    centre, half = rng.randrange(length), int(length * share / 2)
    return max(0, centre - half), min(length, centre + half)
