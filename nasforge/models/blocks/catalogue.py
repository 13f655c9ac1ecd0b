"""The options that a search space may list of the registered blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import nn

from nasforge import registry
from nasforge.core.architecture import Value
from nasforge.core.errors import BuildError
from nasforge.models.blocks.conv import Activation

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


class BlockOptions(Mapping[str, BlockOption]):
    """Option name -> block, of all registered blocks. These are imported when one of their options is asked for.

    A block is called as `Block(in_channels, out_channels, stride, **settings)`. What its signature takes decides its
    options: `kernel` gives one per size (`separable_3`, `separable_5`, ...), `squeeze_excite` a second one (`..._se`);
    `reduction` and `expansion` are decisions nested below the option.

    Args:
        more: blocks of the user, name -> `module:Class`; they are imported at once.
    """

    def __init__(self, more: Mapping[str, str] | None = None) -> None:
        for reference in (more or {}).values():  # a user's code asks for consent before anything is built
            registry.get("block", reference)
        for name in more or {}:
            if name in registry.names("block") or name in BlockOptions():
                raise BuildError(
                    f"blocks: '{name}' is the name of another block; give yours a name of its own",
                    kind="duplicate",
                    key="blocks",
                )
        self._blocks = {name: name for name in registry.names("block")} | dict(more or {})

    def __getitem__(self, option: str) -> BlockOption:
        for name, reference in self._blocks.items():
            if isinstance(option, str) and (option == name or option.startswith(f"{name}_")):
                options = _options_of(name, registry.get("block", reference))
                if option in options:
                    return options[option]
        raise KeyError(option)

    def __iter__(self) -> Iterator[str]:
        for name, reference in self._blocks.items():
            yield from _options_of(name, registry.get("block", reference))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def _options_of(name: str, block: Callable[..., nn.Module]) -> Mapping[str, BlockOption]:
    takes = inspect.signature(block).parameters
    kernels: list[dict[str, Any]] = [{"kernel": kernel} for kernel in KERNELS] if "kernel" in takes else [{}]
    excites: list[dict[str, Any]] = [{}, {"squeeze_excite": True}] if "squeeze_excite" in takes else [{}]
    searched = {setting: values for setting, values in SEARCHED.items() if setting in takes}
    options = {}
    for kernel in kernels:
        for excite in excites:
            option = name + "".join(f"_{size}" for size in kernel.values()) + ("_se" if excite else "")
            options[option] = BlockOption(partial(block, **kernel, **excite), searched)
    return options
