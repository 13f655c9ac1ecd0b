"""A supernet is what you get when you build a search space instead of an architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import BuildError, SpaceError, did_you_mean
from nasforge.core.space import Choice, SearchSpace
from nasforge.models.network import call_builder
from nasforge.models.pick import option_of, width_of


def option_name(key: str, value: Value) -> str:
    """The name of an option inside a supernet: it carries decision and option, so that states need no other map."""
    return f"@{key}={value}".replace(".", ":")


class Mixture(nn.Module):
    """Every option of one decision at one place of the network; runs only the active one.

    Attributes:
        key: the decision, without `model.`.
    """

    def __init__(self, key: str, modules: Mapping[Value, nn.Module]) -> None:
        super().__init__()
        self.key = key
        for value, module in modules.items():
            self.add_module(option_name(key, value), module)
        self._active: str | None = None

    def activate(self, value: Value) -> None:
        """Run the option `value` from now on. Raises BuildError where there is none."""
        name = option_name(self.key, value)
        if name not in self._modules:
            raise BuildError(f"the supernet has no option {value!r} for decision '{MODEL}{self.key}'")
        self._active = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the active option makes of `x`. Raises BuildError before any was activated."""
        if self._active is None:
            raise BuildError(f"decision '{MODEL}{self.key}' has no active option: call supernet.activate(architecture)")
        out: torch.Tensor = self.get_submodule(self._active)(x)
        return out


class Mixed:
    """Answers a builder with all options that a space lists, each built once wherever the builder picks.

    Only options that the space lists are built. A width must have one value left; a decision must choose a module.

    Example:
        >>> pick = Mixed(space.fixed({"model.stage0.width": 32}))
        >>> network = build(pick, in_channels=3, classes=10)
        >>> pick.finish()
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._read: set[str] = set()

    def _values(self, key: str) -> tuple[Value, ...]:
        domain = self._space.domains.get(MODEL + key)
        if domain is None:
            raise BuildError(
                f"the builder asks for decision '{MODEL}{key}', which space '{self._space.name}' does not have; "
                f"declare it there (one option is enough). {did_you_mean(MODEL + key, self._space.domains)}"
            )
        self._read.add(key)
        if isinstance(domain, Choice):
            return domain.options
        if domain.size == 1:
            return (domain.low,)
        raise BuildError(
            f"decision '{MODEL}{key}' of space '{self._space.name}' is a range {domain.low}..{domain.high}; a supernet "
            f"mixes the options of a choice only. {self._advice(key, domain.low)}"
        )

    def _advice(self, key: str, value: Value) -> str:
        return f'Leave it one value: space.fixed({{"{MODEL}{key}": {value!r}}})'

    def __call__(self, key: str, options: Mapping[Value, Callable[[], Any]]) -> Any:
        """All listed options of `key` as one `Mixture`; the option itself where only one is left.

        Raises:
            BuildError: the space has no such decision, the builder no such option, or an option is not a module.
        """
        values = self._values(key)
        built = {value: option_of(key, value, options)() for value in values}
        if len(built) == 1:
            return built[values[0]]
        for value, module in built.items():
            if not isinstance(module, nn.Module):
                raise BuildError(
                    f"decision '{MODEL}{key}' cannot be mixed: option {value!r} is a {type(module).__name__}, not a "
                    f"torch module. {self._advice(key, values[0])}"
                )
        return Mixture(key, built)

    def width(self, key: str, maximum: int | None = None) -> int:
        """The one width that is left.

        Raises:
            BuildError: the space still has several.
        """
        values = self._values(key)
        if len(values) > 1:
            raise BuildError(
                f"width '{MODEL}{key}' of space '{self._space.name}' has {len(values)} values "
                f"({', '.join(map(str, values))}); this supernet needs every width fixed. "
                f"{self._advice(key, values[-1])}"
            )
        return width_of(key, values[0], maximum)

    def finish(self) -> None:
        """Call after building.

        Raises:
            BuildError: the builder never read a decision.
        """
        declared = [key.removeprefix(MODEL) for key in self._space.domains if key.startswith(MODEL)]
        unread = [key for key in declared if key not in self._read]
        if unread:
            raise BuildError(
                f"space '{self._space.name}': the builder never read {', '.join(repr(MODEL + key) for key in unread)}; "
                "take it out of the search space or use it"
            )


class Supernet(nn.Module):
    """All networks of a space with shared weights; computes the active one only.

    Attributes:
        space: what was mixed.
        network: the builder's network, with a `Mixture` wherever a decision has several options.
    """

    def __init__(self, space: SearchSpace, network: nn.Module) -> None:
        super().__init__()
        self.space = space
        self.network = network

    def activate(self, architecture: Architecture) -> None:
        """Make `architecture` the path that runs.

        Raises:
            BuildError: it decides something that this supernet does not have.
        """
        values = architecture.model
        for key, value in values.items():
            domain = self.space.domains.get(MODEL + key)
            if domain is None:
                raise BuildError(f"the supernet of space '{self.space.name}' has no decision '{MODEL}{key}'")
            try:
                domain.check(value)
            except SpaceError as error:
                raise BuildError(f"the supernet of space '{self.space.name}', '{MODEL}{key}': {error}") from None
        for module in self.network.modules():
            if isinstance(module, Mixture) and module.key in values:
                module.activate(values[module.key])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The active path: N x C x H x W -> N x classes."""
        out: torch.Tensor = self.network(x)
        return out


def build_supernet(space: SearchSpace, in_channels: int, classes: int) -> Supernet:
    """The supernet of a space whose widths have one value each, freshly initialised.

    Args:
        space: what to mix; `space.fixed` leaves decisions one value.
        in_channels: C of the input N x C x H x W.
        classes: size of the output N x classes.

    Raises:
        BuildError: something in it cannot be mixed; the message names the decision and what to do.
    """
    pick = Mixed(space)
    network = call_builder(space, pick, in_channels=in_channels, classes=classes)
    pick.finish()
    return Supernet(space, network)
