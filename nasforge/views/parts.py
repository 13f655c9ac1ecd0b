"""A network part by part: what each layer is, what it passes on and what it costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasforge.core.architecture import Architecture
from nasforge.core.errors import ExportError
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.core.trust import foreign
from nasforge.data import load_data
from nasforge.experiment.state import State
from nasforge.models.costs import count_params, flops_by_module
from nasforge.models.network import build

Shape = tuple[int, int, int]
_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Part:
    """One layer, block or cell of a network.

    Attributes:
        part: its name in the network.
        layer: its class.
        kernel: side of its largest convolution; 0 without one.
        output: what it passes on for one image: C, H, W or C.
        params: its own.
        flops: multiply-adds for one image.
    """

    part: str
    layer: str
    kernel: int
    output: tuple[int, ...]
    params: int
    flops: int

    @property
    def size(self) -> str:
        """`16x28x28`."""
        return "x".join(map(str, self.output))

    @property
    def title(self) -> str:
        """Title of the layer: `inverted 3×3`."""
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", " ", self.layer.removesuffix("Block")).lower()
        return f"{words} {self.kernel}×{self.kernel}" if self.kernel else words

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "output": self.size}


def parts_of(space: SearchSpace, point: Architecture, shape: Shape, classes: int) -> list[Part]:
    """Return the network of a point, in the order in which an image passes; nothing is computed (meta device).

    Args:
        space: of the point.
        point: its network.
        shape: C, H, W of an image.
        classes: of the data.

    Raises:
        BuildError: the network cannot be built for this input.
    """
    with torch.device("meta"):
        network = build(space, point, in_channels=shape[0], classes=classes)
    return parts_of_network(network, shape)


def parts_of_network(network: nn.Module, shape: Shape) -> list[Part]:
    """Return the parts of a network, in the order in which an image passes them.

    Args:
        network: a network on the meta device.
        shape: C, H, W of an image.
    """
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inner = {f"{name}.{n}": c for n, c in child.named_children()} if type(child) in _CONTAINERS else {}
        parts |= inner or {name: child}
    outputs: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                outputs.setdefault(name, tuple(output.shape[1:]))

        return hook

    for name, child in parts.items():
        child.register_forward_hook(remember(name))
    flops = flops_by_module(network, shape)
    listed = []
    for name, output in outputs.items():
        part = parts[name]
        cost = (count_params(part), flops.get(name, 0))
        listed.append(Part(name, type(part).__name__, _kernel(part), output, *cost))
    return listed


def parts_of_trial(
    folder: Path,
    state: State,
    trial: Trial,
    data: str | Path | Mapping[str, str] | None = None,
    *,
    trust: bool = False,
) -> list[Part]:
    """Return the network of a trial, for the images of its search.

    Args:
        folder: `runs/<experiment>`.
        state: of the experiment.
        trial: one of its trials.
        data: where the images lie now, if they were moved: a file or folder, or a mapping of `source` and `folder`.
        trust: you agree to run the builder that the journal names; one that a search of yours used needs no consent.

    Raises:
        TrustError: the journal names code that you have not agreed to run.
        ExportError: the trial has no network for images.
        DataError: the data, whose size and classes the network has, cannot be loaded.
    """
    config = state.config.with_data_at(data)
    if trial.architecture is None or config.data is None or not config.space.builder:
        raise ExportError(
            f"trial {trial.number} has no network for images: there is nothing to draw", kind="unsupported"
        )
    images = load_data(config.data)
    with foreign(folder.absolute().parent, trust=trust):
        return parts_of(config.space, trial.architecture, images.shape, len(images.class_names))


def _kernel(module: nn.Module) -> int:
    return max((max(m.kernel_size) for m in module.modules() if isinstance(m, nn.Conv2d)), default=0)
