"""The layers of a network from the images to the logits: what layer-wise rates and stochastic depth count by."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

import timm
import torch
from timm.layers import DropPath as TimmDropPath
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from nasforge.core.errors import RecipeError
from nasforge.models.blocks.drop_path import DropPath


def inner(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the network inside its wrappers (a supernet has some), and the prefix of its tensors' names."""
    prefix = ""
    while not isinstance(network, nn.Sequential) and len(children := list(network.named_children())) == 1:
        prefix, network = f"{prefix}{children[0][0]}.", children[0][1]
    return prefix, network


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a sequential network by name, in order, its stages opened; none without an order.

    A layer that an architecture leaves out has its place all the same, so a supernet and its children count alike.
    What follows the last stage is the head, and not listed.
    """
    prefix, body = inner(network)
    if not isinstance(body, nn.Sequential):
        return {}
    layers: dict[str, nn.Module] = {}
    end = 0
    for name, child in body.named_children():
        if type(child) is nn.Sequential:
            layers |= {f"{prefix}{name}.{below}": module for below, module in child.named_children()}
            end = len(layers)
        else:
            layers[prefix + name] = child
    return dict(list(layers.items())[: end or None])


def layer_groups(network: nn.Module, layer_decay: float, spared: Collection[str] = ()) -> list[dict[str, Any]]:
    """Group parameters by layer for an optimizer; each layer's rate is `layer_decay` times the next one's.

    The last layer learns at the whole rate. timm's own networks are divided as timm does it. `weight_decay` is 1, and 0
    for vectors and for what is `spared` by name.

    Raises:
        RecipeError: the network has no layer order.
    """
    ordered: Any = network if hasattr(network, "group_matcher") else _InOrder(network)
    if not ordered.group_matcher(coarse=False):
        raise RecipeError(
            "train.layer_decay is set, but the network has no layer order (it is neither a sequence of stages nor one "
            "of timm's with a group_matcher); leave the setting out",
            kind="unsupported",
            key="train.layer_decay",
        )
    return list(param_groups_layer_decay(ordered, 1.0, spared, layer_decay=layer_decay))


class _InOrder:
    """A sequential network with the two methods by which timm learns the order of layers."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.network.named_parameters()

    def group_matcher(self, coarse: bool) -> dict[str, str]:
        names = [name for name, layer in layers_of(self.network).items() if any(True for _ in layer.parameters())]
        return {name: rf"^{re.escape(name)}\." for name in names}


def freeze(network: nn.Module, stages: int) -> list[nn.Module]:
    """Stop the gradients of the first parts of a network; returns the modules to keep in eval mode while it trains.

    Parts are timm's coarse groups of its networks (stem, stages, head), of others the children that have weights.

    Raises:
        RecipeError: there are fewer parts before the last one.
    """
    if not stages:
        return []
    if hasattr(network, "group_matcher"):
        timms: Any = network
        groups = group_parameters(timms, timms.group_matcher(coarse=True), reverse=True)
    else:
        prefix, body = inner(network)
        parts = [name for name, child in body.named_children() if any(True for _ in child.parameters())]
        named = ((name, name.removeprefix(prefix).partition(".")[0]) for name, _ in network.named_parameters())
        groups = {name: parts.index(part) if part in parts else 0 for name, part in named}  # its own are of the first
    last = max(groups.values())
    if stages > last:
        raise RecipeError(
            f"train.frozen_stages is {stages}, but the network has {last} stages before its head, the stem included. "
            f"Set at most {last}",
            kind="range",
            key="train.frozen_stages",
        )
    for name, parameter in network.named_parameters():
        if groups[name] < stages:  # what the builder has frozen stays so
            parameter.requires_grad_(False)
    return frozen_modules(network)


def frozen_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules with direct weights of which neither they nor any below learn, and the BN layers among them.

    A transformer has tokens of its own: where they alone are frozen, the network is not. A BN layer without weights is
    frozen where nothing learns in the innermost module with weights around it.
    """
    frozen: list[nn.Module] = []

    def visit(module: nn.Module, learns: bool) -> None:
        weights = list(module.parameters())
        if weights:
            learns = any(weight.requires_grad for weight in weights)
        direct = any(True for _ in module.parameters(recurse=False))
        if not learns and (direct or isinstance(module, nn.modules.batchnorm._BatchNorm)):
            frozen.append(module)
        for child in module.children():
            visit(child, learns)

    visit(network, True)
    return frozen


def set_dropout(network: nn.Module, rate: float) -> None:
    """Give the network's Dropout layers this probability; 0 leaves them as the builder made them.

    Those of timm's networks that have no such layer (ResNet, EfficientNet) drop by their attribute `drop_rate`.

    Raises:
        RecipeError: it has neither.
    """
    if not rate:
        return
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    for layer in layers:
        layer.p = rate
    if not layers:
        if not (hasattr(network, "group_matcher") and hasattr(network, "drop_rate")):
            raise RecipeError(
                "train.dropout is set, but the network has no Dropout layer; leave the setting out",
                kind="unsupported",
                key="train.dropout",
            )
        timms: Any = network
        timms.drop_rate = rate


def set_drop_path(network: nn.Module, rate: float) -> None:
    """Give every residual block its probability: from 0 at the first layer linearly to `rate` at the last.

    The linear decay rule of "Deep Networks with Stochastic Depth", Huang et al. 2016, https://arxiv.org/abs/1603.09382.
    An architecture without a residual block has nothing to leave out. timm's networks get theirs where timm puts them.

    Raises:
        RecipeError: the network has no layer order, or is one of timm's without stochastic depth.
    """
    if not rate:
        return
    if hasattr(network, "group_matcher"):
        _set_timms_drop_path(network, rate)
        return
    layers = list(layers_of(network).values())
    if not layers:
        raise RecipeError(
            "train.drop_path is set, but the network is not a sequence of stages. Leave the setting out",
            kind="unsupported",
            key="train.drop_path",
        )
    for number, layer in enumerate(layers):
        for module in layer.modules():
            if isinstance(module, DropPath):
                module.p = rate * number / max(1, len(layers) - 1)


def _set_timms_drop_path(network: Any, rate: float) -> None:
    """Set drop path as timm does for `drop_path_rate`; a twin on the meta device shows the places."""
    name = getattr(network, "pretrained_cfg", {}).get("architecture", "")
    places: dict[str, float] = {}
    if timm.is_model(name):
        with suppress(TypeError), torch.device("meta"):  # not all of them have the argument
            twin = timm.create_model(name, drop_path_rate=rate).named_modules()
            places = {place: module.drop_prob for place, module in twin if isinstance(module, TimmDropPath)}
    if not places:
        what = f"timm's {name}" if name else "the network"
        raise RecipeError(
            f"train.drop_path is set, but {what} has no stochastic depth; leave the setting out",
            kind="unsupported",
            key="train.drop_path",
        )
    for place, probability in places.items():
        block, _, attribute = place.rpartition(".")
        setattr(network.get_submodule(block), attribute, DropPath(probability))
