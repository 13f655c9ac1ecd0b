"""The parts of AZ-NAS that look at the maps between a network's blocks: expressivity, progressivity, trainability.

Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", https://arxiv.org/abs/2403.19232.
The fourth part, complexity, is `proxies.log_flops`; `strategies.aggregation` assembles them. As in the paper, images
are drawn from N(0, 1), so of `images` only the shape counts, and `labels` do not; weights are the builder's (He's, in
the builders of this package), normalisations use batch statistics.

Blocks are what a network runs one after the other: the members of its chains (`nn.Sequential`, `nn.ModuleList`, the
network's own children) that are made of several layers, or are one convolution or linear layer. Only those count that
give a map, N x C x H x W or N x tokens x C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_unshuffle

from nasforge.evaluators.untrained import Undefined, copies, hooked, in_mode, output_of

_CHAINS = (nn.Sequential, nn.ModuleList)
_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)
_TINY = 1e-8


def expressivity(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how evenly the maps use their channels: the entropy of the eigenvalues of their covariances, summed.

    Section 3.2 of https://arxiv.org/abs/2403.19232: of each block's output, over images and pixels, the covariance of
    the channels; its eigenvalues, divided by their sum, are the probabilities of the entropy.
    """
    return sum(_entropies(network, images))


def progressivity(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the smallest growth of expressivity from one block to the next.

    Section 3.2 of https://arxiv.org/abs/2403.19232.
    """
    entropies = _entropies(network, images)
    if len(entropies) < 2:
        raise Undefined("it has no two blocks that give maps")
    return min(after - before for before, after in pairwise(entropies))


def trainability(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return how well blocks keep the size of gradients: the mean of 2 - s - 1 / s, at best 0.

    Section 3.2 of https://arxiv.org/abs/2403.19232: random signs g at a block's output become gradients at its
    input; s is the largest singular value of the mean over images and pixels of (input gradient) x g. Where a block
    makes maps smaller, the pixels that become one are channels. A block that hands its input on as it is has no number.
    """
    maps = _maps(network, images, gradients=True)
    scores: list[float] = []
    for before, after in reversed(list(pairwise(maps))):
        signs = torch.randint(0, 2, after.shape).to(after) * 2 - 1
        (gradient,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
        if gradient is None or (pixels := _like(gradient, signs)) is None:
            continue
        if gradient.shape == signs.shape and torch.equal(gradient, signs):
            raise Undefined("a block of it hands its input on unchanged")
        inputs, outputs = _channels(pixels), _channels(signs)
        largest = torch.linalg.matrix_norm(inputs.T @ outputs / len(outputs), 2).item()
        scores.append(2 - largest - 1 / (largest + 1e-6))
    if not scores:
        raise Undefined("it has no two blocks of which one follows the other")
    return sum(scores) / len(scores)


def _entropies(network: nn.Module, images: Tensor) -> list[float]:
    entropies = []
    for features in _maps(network, images):
        rows = _channels(features).double()
        rows = rows - rows.mean(0)
        eigenvalues = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp(min=0)
        if not eigenvalues.sum() > 0:
            raise Undefined("a map of it is the same for all images and pixels")
        shares = eigenvalues / eigenvalues.sum()
        entropies.append(-(shares * (shares + _TINY).log()).sum().item())
    return entropies


def _maps(network: nn.Module, images: Tensor, *, gradients: bool = False) -> list[Tensor]:
    """Return what the blocks give for random images, in the order in which they run. Raises Undefined: none."""
    tensors, _ = copies(network)
    inputs = torch.randn(images.shape).to(images.device).requires_grad_(gradients)
    maps: list[Tensor] = []

    def keep(module: nn.Module, _: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor) or first.ndim not in (3, 4):
            return output
        maps.append(first)
        copy = first.clone()  # what follows may overwrite it
        return (copy, *output[1:]) if isinstance(output, tuple) else copy

    with in_mode(network), torch.set_grad_enabled(gradients), ExitStack() as stack:
        for block in _blocks(network):
            stack.enter_context(hooked(block.register_forward_hook(keep)))
        output_of(network, tensors, inputs)
    if not maps:
        raise Undefined("it has no block that gives a map")
    return maps


def _blocks(chain: nn.Module) -> Iterator[nn.Module]:
    """Yield the members of a chain that are made of several layers, or are a convolution or linear layer."""
    members = list(chain.children())
    if len(members) == 1 and type(members[0]) not in _CHAINS and list(members[0].children()):
        yield from _blocks(members[0])  # a wrapper around the network
        return
    for member in members:
        layered = bool(list(member.children()))
        if type(member) in _CHAINS and any(list(inner.children()) for inner in member.children()):
            yield from _blocks(member)
        elif layered or isinstance(member, _LAYERS):
            yield member


def _channels(features: Tensor) -> Tensor:
    """Return a map as rows, one for each pixel or token of each image, with a column for each channel."""
    last = features if features.ndim == 3 else features.movedim(1, -1)
    return last.reshape(-1, last.shape[-1])


def _like(gradient: Tensor, signs: Tensor) -> Tensor | None:
    """Return the gradient with the pixels of `signs`, those that become one as channels; None where neither fits."""
    if gradient.ndim != signs.ndim:
        return None
    if gradient.ndim == 3:
        return gradient if gradient.shape[1] == signs.shape[1] else None
    factors = [size / after for size, after in zip(gradient.shape[2:], signs.shape[2:], strict=True)]
    if min(factors) < 1:
        return None
    factor = max(1, round(max(factors)))
    edges = []  # a convolution without padding leaves pixels out: cut them off, or fill up with zeros
    for size, after in zip(gradient.shape[:1:-1], signs.shape[:1:-1], strict=True):
        more = factor * after - size
        edges += [int(more / 2), more - int(more / 2)]
    return pixel_unshuffle(pad(gradient, edges), factor)
