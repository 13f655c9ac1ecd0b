"""All blocks by name, and the options that a search space may list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import nn

from nasforge.core.architecture import Value
from nasforge.models.blocks.conv import Activation
from nasforge.models.blocks.identity import IdentityBlock
from nasforge.models.blocks.inception import FactorisedInceptionBlock, InceptionBlock
from nasforge.models.blocks.inverted import InvertedBlock
from nasforge.models.blocks.plain import NetworkInNetworkBlock, PairBlock
from nasforge.models.blocks.residual import BottleneckBlock, PreActivationBlock, ResidualBlock, ResNeXtBlock
from nasforge.models.blocks.separable import SeparableBlock

BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "bottleneck": BottleneckBlock,
    "identity": IdentityBlock,
    "inception": InceptionBlock,
    "inception_factorised": FactorisedInceptionBlock,
    "inverted": InvertedBlock,
    "network_in_network": NetworkInNetworkBlock,
    "pair": PairBlock,
    "preactivation": PreActivationBlock,
    "residual": ResidualBlock,
    "resnext": ResNeXtBlock,
    "separable": SeparableBlock,
}
"""A new block is one file and one line here. It is called as `Block(in_channels, out_channels, stride, **settings)`."""

KERNELS = (3, 5, 7)
SEARCHED = {"reduction": range(1, 17), "expansion": range(1, 11)}
"""Settings that are decisions nested below an option, and the values that they may take."""

ACTIVATIONS: dict[Value, Activation] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class BlockOption:
    """One entry of the list of options: a block with some settings made.

    Attributes:
        make: called with in_channels, out_channels, stride, activation and the searched settings.
        searched: settings of `make` that are decisions nested below this option.
    """

    make: Callable[..., nn.Module]
    searched: Mapping[str, range]


@cache
def _takes(block: Callable[..., nn.Module]) -> tuple[str, ...]:
    return tuple(inspect.signature(block).parameters)


def block_options(blocks: Mapping[str, Callable[..., nn.Module]] = BLOCKS) -> dict[str, BlockOption]:
    """Option name -> block. What a block's signature takes decides its options.

    `kernel` gives one option per size (`separable_3`, `separable_5`, ...), `squeeze_excite` a second one (`..._se`);
    `reduction` and `expansion` are decisions nested below the option.
    """
    options = {}
    for name, block in blocks.items():
        takes = _takes(block)
        kernels: list[dict[str, Any]] = [{"kernel": kernel} for kernel in KERNELS] if "kernel" in takes else [{}]
        excites: list[dict[str, Any]] = [{}, {"squeeze_excite": True}] if "squeeze_excite" in takes else [{}]
        searched = {setting: values for setting, values in SEARCHED.items() if setting in takes}
        for kernel in kernels:
            for excite in excites:
                option = name + "".join(f"_{size}" for size in kernel.values()) + ("_se" if excite else "")
                options[option] = BlockOption(partial(block, **kernel, **excite), searched)
    return options
