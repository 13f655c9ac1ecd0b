"""All options of a search space in one network: what answers a builder, and what computes the active ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nasforge.core.alphas import check_mixable
from nasforge.core.architecture import MODEL, Value
from nasforge.core.domains import Domain
from nasforge.core.errors import BuildError, did_you_mean
from nasforge.core.space import Choice, SearchSpace
from nasforge.models.pick import number_of, option_of, width_of


def option_name(key: str, value: Value) -> str:
    """Return the name of an option inside a supernet; it holds decision and option, so states need no other map."""
    return f"@{key}={value}".replace(".", ":")


@dataclass(frozen=True)
class Share:
    """Share of each option of a decision.

    Attributes:
        active: indices of the options that are computed, in the order of the domain's options.
        weights: one number per option of the domain, differentiable; None for the plain output of one active option.
    """

    active: tuple[int, ...]
    weights: torch.Tensor | None = None


class Mixture(nn.Module):
    """The options of one decision at one place of the network; computes the active ones only.

    Attributes:
        key: the decision, without `model.`.
        values: the options that it holds.
    """

    def __init__(self, key: str, modules: Mapping[Value, nn.Module]) -> None:
        """Hold the options; raises BuildError for two of one name, such as `1` and `"1"`."""
        super().__init__()
        self.key = key
        self.values = tuple(modules)
        for value, module in modules.items():
            name = option_name(key, value)
            if name in self._modules:
                raise BuildError(
                    f"decision '{MODEL}{key}' has two options that a supernet names {name}, one of them {value!r}; "
                    "rename one",
                    kind="duplicate",
                    key=MODEL + key,
                )
            self.add_module(name, module)
        self._active: tuple[tuple[str, torch.Tensor | None], ...] = ()

    def activate(self, value: Value) -> None:
        """Run the option `value` from now on, as it is. Raises BuildError where there is none."""
        self.mix({value: None})

    def mix(self, weights: Mapping[Value, torch.Tensor | None]) -> None:
        """Run these options from now on and add up their outputs, each times its weight (None: as it is).

        Raises:
            BuildError: there is no such option.
        """
        for value in weights:
            if option_name(self.key, value) not in self._modules:
                raise BuildError(
                    f"the supernet has no option {value!r} for decision '{MODEL}{self.key}'",
                    kind="unknown",
                    key=MODEL + self.key,
                )
        self._active = tuple((option_name(self.key, value), weight) for value, weight in weights.items())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the active options to `x`. Raises BuildError before any was activated."""
        if not self._active:
            raise BuildError(
                f"decision '{MODEL}{self.key}' has no active option: call supernet.activate(architecture)",
                kind="invalid",
                key=MODEL + self.key,
            )
        total: torch.Tensor | None = None
        for name, weight in self._active:
            out: torch.Tensor = self.get_submodule(name)(x)
            out = out if weight is None else weight.to(out.device, out.dtype) * out
            if total is not None and total.shape != out.shape:
                raise BuildError(
                    f"decision '{MODEL}{self.key}' cannot be mixed softly: its options give {tuple(total.shape)} and "
                    f"{tuple(out.shape)}. Use a relaxation of single paths, or leave it one value with space.fixed",
                    kind="unsupported",
                    key=MODEL + self.key,
                )
            total = out if total is None else total + out
        assert total is not None  # noqa: S101 - there is an active option, for the type checker
        return total


class Mixed:
    """Answer to a builder with all options that a space lists, each built once wherever the builder picks.

    Only options that the space lists are built. A width is answered with its largest value, whose leading channels
    the smaller ones share.

    Example:
        >>> pick = Mixed(space)
        >>> network = build(pick, in_channels=3, classes=10)
        >>> pick.finish()
    """

    def __init__(self, space: SearchSpace, mixtures: Iterable[str] = ()) -> None:
        """Answer with the options of `space`.

        Args:
            space: what to mix.
            mixtures: decisions (without `model.`) that get a `Mixture` although `space` leaves them one option, so that
                the network's tensors are named as those of the supernet of which it is a part.
        """
        self._space = space
        self._mixtures = frozenset(mixtures)
        self._read: set[str] = set()
        self.widths: dict[str, Sequence[Value]] = {}
        """Widths with several values: key without `model.` -> values."""
        self.mixed: set[str] = set()
        """Decisions that became a `Mixture`."""

    def _domain(self, key: str) -> Domain:
        domain = self._space.domains.get(MODEL + key)
        if domain is None:
            raise BuildError(
                f"the builder asks for decision '{MODEL}{key}', which space '{self._space.name}' does not have; "
                f"declare it there (one option is enough). {did_you_mean(MODEL + key, self._space.domains)}",
                kind="unknown",
                key=MODEL + key,
            )
        self._read.add(key)
        return domain

    def _values(self, key: str) -> Sequence[Value]:
        domain = self._domain(key)
        check_mixable(MODEL + key, domain)
        return domain.values

    def _advice(self, key: str, value: Value) -> str:
        return f'Leave it one value: space.fixed({{"{MODEL}{key}": {value!r}}})'

    def __call__(self, key: str, options: Mapping[Value, Callable[[], Any]]) -> Any:
        """Build all listed options of `key` as one `Mixture`; the option itself if only one is left.

        Raises:
            BuildError: the space has no such decision, the builder no such option, or an option is not a module.
        """
        values = self._values(key)
        domain = self._space.domains[MODEL + key]
        if not isinstance(domain, Choice) and len(values) != 1:
            raise BuildError(
                f"decision '{MODEL}{key}' of space '{self._space.name}' is a range {domain.low}..{domain.high}; a "
                f"supernet mixes the options of a choice only. {self._advice(key, domain.low)}",
                kind="unsupported",
                key=MODEL + key,
            )
        built = {value: option_of(key, value, options)() for value in values}
        if len(built) == 1 and key not in self._mixtures:
            return built[values[0]]
        for value, module in built.items():
            if not isinstance(module, nn.Module):
                raise BuildError(
                    f"decision '{MODEL}{key}' cannot be mixed: option {value!r} is a {type(module).__name__}, not a "
                    f"torch module. {self._advice(key, values[0])}",
                    kind="unsupported",
                    key=MODEL + key,
                )
        self.mixed.add(key)
        return Mixture(key, built)

    def width(self, key: str, maximum: int | None = None) -> int:
        """Return the largest of the widths that the space lists.

        Raises:
            BuildError: it is a continuous range, or above `maximum`.
        """
        values = self._values(key)
        if not values:
            raise BuildError(
                f"width '{MODEL}{key}' of space '{self._space.name}' must list whole numbers, got a range; "
                "list the widths",
                kind="unsupported",
                key=MODEL + key,
            )
        widths = [width_of(key, value, maximum) for value in values]
        if len(values) > 1:
            self.widths[key] = values
        return max(widths)

    def value(self, key: str) -> int | float:
        """Return the only number that the space leaves.

        Raises:
            BuildError: there are several: a supernet has no mean of two numbers.
        """
        domain = self._domain(key)
        if len(domain.values) == 1:
            return number_of(key, domain.values[0])
        raise BuildError(
            f"decision '{MODEL}{key}' of space '{self._space.name}' has several numbers, and a supernet cannot mix "
            f"numbers; make it a choice or a width. {self._advice(key, domain.middle)}",
            kind="unsupported",
            key=MODEL + key,
        )

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
                "remove it from the search space or use it",
                kind="invalid",
                key=MODEL + unread[0],
            )


def mixtures_in(network: nn.Module) -> list[Mixture]:
    """Return every mixture of a network, in order."""
    return [module for module in network.modules() if isinstance(module, Mixture)]
