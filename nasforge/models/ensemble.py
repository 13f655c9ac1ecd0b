"""Several networks as one: the mean of their class probabilities. Also one network over several views of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasforge.core.architecture import Architecture
from nasforge.core.protocols import Pick
from nasforge.core.space import SearchSpace
from nasforge.models.network import build as build_member
from nasforge.models.network import without_start

BUILDER = f"{__name__}:build"


class Ensemble(nn.Module):
    """The logarithm of the mean of its members' probabilities, so that a softmax gives that mean.

    "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", Lakshminarayanan et al. 2017,
    https://arxiv.org/abs/1612.01474

    Shapes:
        N x C x H x W -> N x classes.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities of a batch of normalised images."""
        return mean_of([member(images) for member in self.members])


class Mirrored(nn.Module):
    """A network's answer averaged over an image and its mirror image, as `Ensemble` averages members.

    Shapes:
        N x C x H x W -> N x classes.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities of a batch of normalised images."""
        return mean_of([self.network(images), self.network(images.flip(-1))])


class TenCrops(nn.Module):
    """A network's answer averaged over ten views of an image: four corners and the centre, each mirrored too.

    "ImageNet Classification with Deep Convolutional Neural Networks", Krizhevsky et al. 2012,
    https://papers.nips.cc/paper/4824, section 4.1. The paper cuts 224 of 256 pixels, in training as in the test. Here
    images are not cut in training but shifted, so the views are the image as it is and its four largest diagonal
    shifts.

    Args:
        network: takes normalised images.
        pixels: the shift in both directions.
        fill: normalised value per channel where an image leaves the frame.

    Shapes:
        N x C x H x W -> N x classes; ten forward passes.
    """

    def __init__(self, network: nn.Module, pixels: int, fill: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.pixels = pixels
        self.fill = tuple(fill)

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities of a batch of normalised images."""
        count, _, height, width = images.shape
        p = self.pixels
        colour = torch.tensor(self.fill, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
        padded = colour.repeat(count, 1, height + 2 * p, width + 2 * p)
        padded[:, :, p : p + height, p : p + width] = images
        starts = ((p, p), (0, 0), (0, 2 * p), (2 * p, 0), (2 * p, 2 * p))
        views = [padded[:, :, top : top + height, left : left + width] for top, left in starts]
        return mean_of([self.network(view) for each in views for view in (each, each.flip(-1))])


def mean_of(logits: Sequence[Tensor]) -> Tensor:
    """Return log(mean(softmax)) of several N x classes, computed without leaving the logarithm."""
    each = torch.stack([answer.float().log_softmax(-1) for answer in logits])
    return each.logsumexp(0) - torch.log(torch.tensor(float(len(logits)), device=each.device))


def ensemble_space(members: Sequence[tuple[SearchSpace, Architecture]]) -> SearchSpace:
    """Return the space whose only network is the ensemble of these points, so that it is saved like any network."""
    content = [{"space": without_start(space).to_json(), "architecture": point.to_json()} for space, point in members]
    return SearchSpace(f"ensemble-of-{len(members)}", (), builder=BUILDER, arguments={"members": content})


def build(pick: Pick, *, in_channels: int, classes: int, members: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Build the network of `ensemble_space`.

    Args:
        pick: is asked nothing, the members are decided.
        in_channels: C of the images.
        classes: number of logits of every member.
        members: each a space and an architecture, as JSON.
    """
    return Ensemble(
        [
            build_member(
                SearchSpace.from_json(member["space"]),
                Architecture.from_json(member["architecture"]),
                in_channels=in_channels,
                classes=classes,
            )
            for member in members
        ]
    )
