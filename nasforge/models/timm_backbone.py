"""Builder of any timm network by name, which is a decision next to the recipe's, and the space of one such network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from timm.models import load_state_dict
from torch import nn
from torch.nn.functional import interpolate

from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError, did_you_mean, one_line
from nasforge.core.protocols import Pick
from nasforge.core.ranges import check_whole
from nasforge.core.space import Choice, Decision, SearchSpace

_SAFETENSORS = ".safetensors"
_SUFFIXES = (_SAFETENSORS, ".pth", ".pt", ".bin")
"""Of files of weights that users name; all but the first are checkpoints of torch."""


def backbone_space(name: str, weights: Path | None = None, resolution: int = 0) -> SearchSpace:
    """Return the space whose only network is timm's `name`; arguments as in `build`."""
    arguments: dict[str, Any] = {"backbones": [name]}
    arguments |= {"weights": str(weights)} if weights else {}
    arguments |= {"resolution": resolution} if resolution else {}
    return SearchSpace(name, (Decision("model.backbone", Choice((name,))),), "timm_backbone", arguments)


def backbone_point(name: str) -> Architecture:
    """Return the only point of `backbone_space`."""
    return Architecture({"model.backbone": name})


def check_known(name: str, option: str) -> None:
    """Refuse a name that timm does not know.

    Args:
        name: of the network, perhaps with a tag of its weights: `resnet18.a1_in1k`.
        option: the user's option that has it.

    Raises:
        ConfigError: timm has no such network, or no such weights of it.
    """
    network = name.partition(".")[0]
    if not timm.is_model(network):
        raise ConfigError(f"{option}: timm has no network '{name}'; {_nearest(network)}", kind="unknown", key=option)
    if name != network and name not in timm.list_pretrained(f"{network}.*"):
        raise ConfigError(
            f"{option}: timm has no weights '{name}'; {did_you_mean(name, timm.list_pretrained(f'{network}.*'))}",
            kind="unknown",
            key=option,
        )


def check_file(file: Path) -> None:
    """Refuse a path that is no file of weights.

    Raises:
        ConfigError: there is no such file, or its suffix is another.
    """
    if file.suffix not in _SUFFIXES or not file.is_file():
        raise ConfigError(
            f"weights: got {file}, expected a .safetensors or .pth file that exists. Correct the path",
            kind="missing",
            key="weights",
        )


def check_weights(file: Path, name: str, option: str) -> None:
    """Load a file of weights once, to refuse it before any work is done.

    Args:
        file: `.safetensors`, or a checkpoint of torch that holds tensors alone.
        name: timm's name of its network.
        option: the user's option that has this name.

    Raises:
        ConfigError: timm has no such network, or the file cannot be read, or is not of this network.
    """
    check_known(name, option)
    try:
        _create(name, in_channels=3, classes=2, pretrained=False, weights=str(file))
    except BuildError as error:
        if error.kind == "unreadable":
            raise ConfigError(str(error), kind="unreadable", key="weights") from None
        reason = one_line(str(error.__cause__ or error).partition("state_dict for ")[2] or error, 120)
        raise ConfigError(
            f"weights: {file} does not fit timm's '{name}' ({reason}). Name the network of this file by --{option}",
            kind="mismatch",
            key="weights",
        ) from None


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
        weights: start from this file of the one backbone listed, as timm saves it: `.safetensors`, or a checkpoint of
            torch (`.pth`) that holds tensors alone. A classifier of other classes is left out, and a first convolution
            for other channels adapted.
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
    if not Path(weights).is_file():
        raise BuildError(
            f"{where} must be a .safetensors or .pth file that every worker sees, got '{weights}'",
            kind="missing",
            key="weights",
        )


def _shapes_in(weights: str) -> dict[str, list[int]]:
    """Return the shape of each tensor in a file of weights.

    Raises:
        BuildError: it cannot be read, or holds more than tensors.
    """
    try:
        if Path(weights).suffix == _SAFETENSORS:
            with safe_open(weights, framework="pt") as file:
                return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (no mapping)
        state = load_state_dict(weights, weights_only=True)
        if not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
            raise TypeError("it holds more than tensors")
        return {key: list(tensor.shape) for key, tensor in state.items()}
    except Exception as error:
        raise BuildError(
            f"weights: {weights} cannot be read: {one_line(error, 120)}. Save the state_dict() of the network alone",
            kind="unreadable",
            key="weights",
        ) from None


def _create(name: str, in_channels: int, classes: int, pretrained: bool, weights: str) -> nn.Module:
    started = bool(pretrained or weights) and torch.get_default_device().type != "meta"  # costs need no weights
    shapes = _shapes_in(weights) if weights and started else {}
    overlay = {"pretrained_cfg_overlay": _about(name, weights, shapes)} if weights and started else {}
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
        _check_whole(network, name, weights, shapes)
    network.pretrained = bool(pretrained or weights)  # type: ignore[assignment]  # a recipe that redraws weights is refused
    return network


def _about(name: str, weights: str, shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """Return what timm must know of a file, which may be of other classes and channels than the weights it knows."""
    about: dict[str, Any] = {"file": weights}
    known = timm.get_pretrained_cfg(name)
    if known is None:
        return about

    def shape_of(layers: Any) -> list[int]:
        layer = layers[0] if isinstance(layers, (tuple, list)) else layers
        return shapes.get(f"{layer}.weight", [])

    head, first = shape_of(known.classifier), shape_of(known.first_conv)
    if head:
        about["num_classes"] = head[0]
    if len(first) == 4:
        about["input_size"] = (first[1], *known.input_size[1:])
    return about


def _check_whole(network: Any, name: str, weights: str, shapes: Collection[str]) -> None:
    """Check that a file lacks no tensors but the classifier and batch counters, since timm ignores missing ones."""
    heads = network.default_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    needed = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in shapes and not key.startswith(heads)]
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
