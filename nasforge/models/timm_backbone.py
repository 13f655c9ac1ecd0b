"""Builder of any timm network by name, which is a decision next to the recipe's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.functional import interpolate

from nasforge.core.errors import BuildError, did_you_mean, one_line
from nasforge.core.protocols import Pick
from nasforge.core.ranges import check_whole


def build(
    pick: Pick,
    *,
    in_channels: int,
    classes: int,
    backbones: Sequence[str],
    pretrained: bool = False,
    weights: str = "",
    resolution: int = 0,
) -> nn.Module:
    """Build the timm network that decision `backbone` names, with a classifier of `classes` logits.

    timm: https://github.com/huggingface/pytorch-image-models

    Args:
        pick: answers the decision `backbone`.
        in_channels: C of the images; timm adapts the first convolution.
        classes: number of logits.
        backbones: timm names that may be decided.
        pretrained: start from timm's weights, downloaded on first use.
        weights: start from this `.safetensors` file of the one backbone listed, as timm saves it; a classifier of
            other classes is left out, and a first convolution for other channels adapted.
        resolution: the network itself resizes its input to this many pixels a side; 0: it takes images as they are.

    Raises:
        BuildError: a name that timm does not know, or weights that are not available.
    """
    if isinstance(backbones, str) or not backbones:
        raise BuildError(
            f"builder 'timm_backbone': backbones must be a list of timm names, got {backbones!r}",
            kind="type",
            key="backbones",
        )
    for name in backbones:
        if not timm.is_model(name):
            raise BuildError(
                f"builder 'timm_backbone': timm has no network '{name}'; {_nearest(str(name))}",
                kind="unknown",
                key="backbones",
            )
    check_whole(resolution, "builder 'timm_backbone': resolution (0: images as they are)", 0, error=BuildError)
    if weights:
        _check_weights(weights, backbones)
    make = partial(_create, in_channels=in_channels, classes=classes, pretrained=pretrained, weights=weights)
    network: nn.Module = pick("backbone", {name: partial(make, name) for name in backbones})
    if resolution:
        # a hook, not a module around the network: recipes look for timm's own attributes (`group_matcher`...)
        network.register_forward_pre_hook(partial(_resize, resolution))
    return network


def _resize(resolution: int, network: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Resize a batch before the network sees it."""
    return (interpolate(inputs[0], size=(resolution, resolution), mode="bilinear", align_corners=False),)


def _check_weights(weights: str, backbones: Sequence[str]) -> None:
    where = "builder 'timm_backbone': weights"
    if len(backbones) != 1:
        raise BuildError(
            f"{where} belong to one network, but backbones lists {len(backbones)}; list one",
            kind="conflict",
            key="weights",
        )
    if Path(weights).suffix != ".safetensors" or not Path(weights).is_file():
        raise BuildError(
            f"{where} must be a .safetensors file that every worker sees, got '{weights}'",
            kind="missing",
            key="weights",
        )


def _create(name: str, in_channels: int, classes: int, pretrained: bool, weights: str) -> nn.Module:
    started = bool(pretrained or weights) and torch.get_default_device().type != "meta"  # costs need no weights
    overlay = {"pretrained_cfg_overlay": _about(name, weights)} if weights and started else {}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=started, in_chans=in_channels, num_classes=classes, **overlay
        )
    except Exception as error:
        reason = one_line(error, 200)
        advice = "choose another backbone"
        if started:
            advice = "set pretrained: false, or make the weights reachable"
        if started and weights:
            advice = "use the file of this network"
        raise BuildError(
            f"builder 'timm_backbone': cannot make '{name}': {reason}; {advice}", kind="failed", key="backbones"
        ) from error
    if started and weights:
        _check_whole(network, name, weights)
    network.pretrained = bool(pretrained or weights)  # type: ignore[assignment]  # a recipe that redraws weights is refused
    return network


def _about(name: str, weights: str) -> dict[str, Any]:
    """Return what timm must know of a file, which may be of other classes and channels than the weights it knows."""
    about: dict[str, Any] = {"file": weights}
    known = timm.get_pretrained_cfg(name)
    if known is None:
        return about
    with safe_open(weights, framework="pt") as file:

        def shape_of(layers: Any) -> list[int]:
            layer = layers[0] if isinstance(layers, (tuple, list)) else layers
            key = f"{layer}.weight"
            return file.get_slice(key).get_shape() if key in file.keys() else []  # noqa: SIM118  (no mapping)

        head, first = shape_of(known.classifier), shape_of(known.first_conv)
    if head:
        about["num_classes"] = head[0]
    if len(first) == 4:
        about["input_size"] = (first[1], *known.input_size[1:])
    return about


def _check_whole(network: Any, name: str, weights: str) -> None:
    """Check that a file lacks no tensors but the classifier and batch counters, since timm ignores missing ones."""
    heads = network.default_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    with safe_open(weights, framework="pt") as file:
        there = set(file.keys())
    needed = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in there and not key.startswith(heads)]
    if missing:
        raise BuildError(
            f"builder 'timm_backbone': weights '{weights}' lack {len(missing)} tensors of '{name}', such as "
            f"{missing[0]}; use the file of this network, as timm writes it",
            kind="changed",
            key="weights",
        )


def _nearest(name: str) -> str:
    """Return names of the same family, since timm knows a thousand."""
    family = [known for known in timm.list_models() if known[:4] == name[:4]]
    return did_you_mean(name, family) if family else "list them with timm.list_models()"
