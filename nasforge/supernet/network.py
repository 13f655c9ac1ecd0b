"""A supernet is what you get when you build a search space instead of an architecture."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import BuildError, SpaceError
from nasforge.core.space import Choose, Domain, SearchSpace
from nasforge.models.blocks.drop_path import DropPath
from nasforge.models.network import call_builder
from nasforge.supernet.inheritance import leading_slices
from nasforge.supernet.mixed import Mixed, Share, mixtures_in

_KEPT_SLICES = 192
"""Paths of smaller widths that stay built. Building one takes .05 to .15 s on a CPU core, while a GPU waits, and its
modules without numbers take up to .7 MB; the shipped spaces have up to 150 combinations of widths."""


class Supernet(nn.Module):
    """All networks of a space with shared weights; computes the active ones only.

    Where widths are open, a path of smaller widths runs in the modules that the builder makes for these widths, on
    the leading slice of every tensor: it equals its child by construction, whatever the builder does with a width.
    ("Slimmable Neural Networks", Yu et al. 2019, https://arxiv.org/abs/1812.08928, slices likewise.)

    Attributes:
        space: what was mixed.
        network: the builder's network at the largest widths, with a `Mixture` wherever a decision has several options.
        widths: widths with several values: key without `model.` -> values.
        in_channels: C of the images.
        classes: number of logits.
    """

    def __init__(self, space: SearchSpace, in_channels: int, classes: int) -> None:
        """Build it; see `build_supernet`."""
        super().__init__()
        pick = Mixed(space)
        self.space = space
        self.network = call_builder(space, pick, in_channels=in_channels, classes=classes)
        pick.finish()
        self.widths = dict(pick.widths)
        self._mixed = frozenset(pick.mixed)
        self.in_channels = in_channels
        self.classes = classes
        self._slices: OrderedDict[tuple[tuple[str, Value], ...], nn.Module] = OrderedDict()
        self._running: tuple[nn.Module, ...] = ()
        """The slice that runs, in a tuple: it is not a child of ours. Empty: `network` itself."""
        self._mixtures = mixtures_in(self.network)

    @property
    def decisions(self) -> tuple[str, ...]:
        """Open decisions without `model.`: mixtures, then open widths."""
        return (*dict.fromkeys(mixture.key for mixture in self._mixtures), *self.widths)

    @property
    def narrowest(self) -> nn.Module:
        """All options at the smallest widths; on the meta device where widths are open."""
        return self.part({key: min(values) for key, values in self.widths.items()}) if self.widths else self.network

    @property
    def running(self) -> nn.Module:
        """Return what runs: `network`, or a slice on the meta device."""
        return self._running[0] if self._running else self.network

    def covering(self) -> Iterator[Architecture]:
        """Yield paths in which every option runs, but for some of those below an option."""
        for number in range(max((len(domain.values) for domain in self.space.domains.values()), default=1)):
            yield self.space.decide(_option_from_behind(number))

    def activate(self, architecture: Architecture) -> None:
        """Make `architecture` the path that runs.

        Raises:
            BuildError: it decides something that this supernet does not have.
        """
        values = architecture.model
        for key, value in values.items():
            self._check(key, value)
        mixtures = self._mixtures
        if self.widths:
            self._running = (self.part({key: values[key] for key in values if MODEL + key in self.space.domains}),)
            mixtures = mixtures_in(self._running[0])
        for mixture in mixtures:
            if mixture.key in values:
                mixture.activate(values[mixture.key])

    def mix(self, shares: Mapping[str, Share], widths: Mapping[str, Value] | None = None) -> None:
        """Make a weighted mixture run.

        Args:
            shares: decision (without `model.`) -> how much its options count; for every decision that has several.
            widths: one value for each open width.

        Raises:
            BuildError: a decision or a width is left out, or has no such value.
        """
        missing = [MODEL + key for key in (*self._mixed, *self.widths) if key not in {*shares, *(widths or {})}]
        if missing:
            raise BuildError(
                f"the supernet of space '{self.space.name}' has no choice for {', '.join(sorted(missing))}; "
                "choose a value for each",
                kind="missing",
            )
        mixtures = self._mixtures
        if self.widths:
            values = dict(widths or {})
            for key, share in shares.items():
                if len(share.active) == 1:
                    values[key] = self._options(key)[share.active[0]]
            self._running = (self.part(self._reachable(values)),)
            mixtures = mixtures_in(self._running[0])
        for mixture in mixtures:
            share, options = shares[mixture.key], self._options(mixture.key)
            active = [index for index in share.active if options[index] in mixture.values]
            mixture.mix({options[i]: None if share.weights is None else share.weights[i] for i in active})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the active path or mixture: N x C x H x W -> N x classes."""
        out: torch.Tensor
        if not self._running:
            out = self.network(x)
            return out
        part = self._running[0]
        part.train(self.training)
        out = functional_call(part, leading_slices(part, self.network), (x,))
        return out

    def _options(self, key: str) -> Sequence[Value]:
        return self.space.domains[MODEL + key].values

    def _check(self, key: str, value: Value) -> None:
        domain = self.space.domains.get(MODEL + key)
        if domain is None:
            raise BuildError(
                f"the supernet of space '{self.space.name}' has no decision '{MODEL}{key}'",
                kind="unknown",
                key=MODEL + key,
            )
        try:
            domain.check(value)
        except SpaceError as error:
            raise BuildError(
                f"the supernet of space '{self.space.name}', '{MODEL}{key}': {error}", kind=error.kind, key=MODEL + key
            ) from None

    def _reachable(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Drop the decisions that hang below an option that is not taken."""
        decided = {MODEL + key: value for key, value in values.items()}
        domains = self.space.fixed(decided).domains
        return {key: value for key, value in values.items() if MODEL + key in domains}

    def part(self, values: Mapping[str, Value]) -> nn.Module:
        """Build the network of these decisions on the meta device; its tensors' names are ours.

        Args:
            values: decision without `model.` -> value; only such as can be reached.
        """
        known = tuple(sorted(values.items()))
        if known in self._slices:
            self._slices.move_to_end(known)
            made = self._slices[known]
            _copy_dropout(self.network, made)
            return made
        space = self.space.fixed({MODEL + key: value for key, value in values.items()})
        pick = Mixed(space, self._mixed)
        with torch.device("meta"), _Uninitialised():
            made = call_builder(space, pick, in_channels=self.in_channels, classes=self.classes)
        _copy_dropout(self.network, made)
        self._slices[known] = made
        if len(self._slices) > _KEPT_SLICES:
            self._slices.popitem(last=False)
        return made

    def check_widths(self) -> None:
        """Check that every width's every value can be sliced from the largest, for a sample of paths.

        Raises:
            BuildError: with a smaller width the builder makes a tensor that the largest does not have.
        """
        largest = {MODEL + key: max(values) for key, values in self.widths.items()}
        for key, values in self.widths.items():
            for number, value in enumerate(values):
                space = self.space.fixed({**largest, MODEL + key: value})
                path = space.decide(_option_from_behind(number))
                try:
                    leading_slices(self.part(path.model), self.network)
                except BuildError as error:
                    raise BuildError(
                        f"width '{MODEL}{key}' of space '{self.space.name}' cannot be mixed: at {value} {error}. "
                        f'Leave it one value: space.fixed({{"{MODEL}{key}": {value!r}}})',
                        kind="unsupported",
                        key=MODEL + key,
                    ) from None
        self._slices.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Supernet:
        """Copy the network without its active path; activate a path in the copy."""
        copied = Supernet.__new__(Supernet)
        nn.Module.__init__(copied)
        memo[id(self)] = copied
        for name in ("space", "widths", "_mixed", "in_channels", "classes", "training"):
            setattr(copied, name, getattr(self, name))
        copied.network = copy.deepcopy(self.network, memo)
        copied._slices, copied._running = OrderedDict(), self._running
        copied._mixtures = mixtures_in(copied.network)
        return copied


def _option_from_behind(number: int) -> Choose:
    """Take the last option of every decision for 0, the one before for 1, and so on around."""

    def choose(key: str, domain: Domain) -> Value:
        values = domain.values
        return values[-1 - number % len(values)]

    return choose


class _Uninitialised(TorchFunctionMode):
    """Mode without initial values: the meta device has none, and drawing them takes half the time of building."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


_FILLS = frozenset(
    {
        *(torch.Tensor.fill_, torch.Tensor.zero_, torch.Tensor.uniform_, torch.Tensor.normal_),
        *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_, nn.init.constant_),
    }
)


def _copy_dropout(source: nn.Module, target: nn.Module) -> None:
    """Copy dropout probabilities from the supernet to its slices, since a recipe sets them after both are built."""
    for name, module in target.named_modules():
        if isinstance(module, (nn.Dropout, DropPath)):
            module.p = source.get_submodule(name).p  # type: ignore[assignment]


def build_supernet(space: SearchSpace, in_channels: int, classes: int) -> Supernet:
    """Build the supernet of a space, freshly initialised.

    Args:
        space: what to mix; `space.fixed` leaves decisions one value.
        in_channels: C of the input N x C x H x W.
        classes: size of the output N x classes.

    Raises:
        BuildError: something in it cannot be mixed; the message names the decision and what to do.
    """
    supernet = Supernet(space, in_channels, classes)
    supernet.check_widths()
    return supernet


def planned_supernet(space: SearchSpace, in_channels: int, classes: int) -> Supernet:
    """Build the supernet on the meta device: reports what cannot be mixed, computes nothing."""
    with torch.device("meta"), _Uninitialised():
        return build_supernet(space, in_channels, classes)
