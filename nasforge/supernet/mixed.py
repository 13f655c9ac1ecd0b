"""A supernet is what you get when you build a search space instead of an architecture."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from nasforge.blocks.drop_path import DropPath
from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import BuildError, SpaceError, did_you_mean
from nasforge.core.space import Choice, Choose, Domain, SearchSpace
from nasforge.models.network import call_builder
from nasforge.models.pick import option_of, width_of

_KEPT_SLICES = 32


def option_name(key: str, value: Value) -> str:
    """The name of an option inside a supernet: it carries decision and option, so that states need no other map."""
    return f"@{key}={value}".replace(".", ":")


@dataclass(frozen=True)
class Share:
    """How much each option of a decision counts.

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
        super().__init__()
        self.key = key
        self.values = tuple(modules)
        for value, module in modules.items():
            self.add_module(option_name(key, value), module)
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
                raise BuildError(f"the supernet has no option {value!r} for decision '{MODEL}{self.key}'")
        self._active = tuple((option_name(self.key, value), weight) for value, weight in weights.items())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the active options make of `x`. Raises BuildError before any was activated."""
        if not self._active:
            raise BuildError(f"decision '{MODEL}{self.key}' has no active option: call supernet.activate(architecture)")
        total: torch.Tensor | None = None
        for name, weight in self._active:
            out: torch.Tensor = self.get_submodule(name)(x)
            out = out if weight is None else weight.to(out.device, out.dtype) * out
            if total is not None and total.shape != out.shape:
                raise BuildError(
                    f"decision '{MODEL}{self.key}' cannot be mixed softly: its options give {tuple(total.shape)} and "
                    f"{tuple(out.shape)}. Take a relaxation of single paths, or leave it one value with space.fixed"
                )
            total = out if total is None else total + out
        assert total is not None  # noqa: S101 - there is an active option, for the type checker
        return total


class Mixed:
    """Answers a builder with all options that a space lists, each built once wherever the builder picks.

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
        self.widths: dict[str, tuple[Value, ...]] = {}
        """Widths with several values: key without `model.` -> values."""
        self.mixed: set[str] = set()
        """Decisions that became a `Mixture`."""

    def _values(self, key: str) -> tuple[Value, ...]:
        domain = self._space.domains.get(MODEL + key)
        if domain is None:
            raise BuildError(
                f"the builder asks for decision '{MODEL}{key}', which space '{self._space.name}' does not have; "
                f"declare it there (one option is enough). {did_you_mean(MODEL + key, self._space.domains)}"
            )
        self._read.add(key)
        return domain.values

    def _advice(self, key: str, value: Value) -> str:
        return f'Leave it one value: space.fixed({{"{MODEL}{key}": {value!r}}})'

    def __call__(self, key: str, options: Mapping[Value, Callable[[], Any]]) -> Any:
        """All listed options of `key` as one `Mixture`; the option itself where only one is left.

        Raises:
            BuildError: the space has no such decision, the builder no such option, or an option is not a module.
        """
        values = self._values(key)
        domain = self._space.domains[MODEL + key]
        if not isinstance(domain, Choice) and len(values) != 1:
            raise BuildError(
                f"decision '{MODEL}{key}' of space '{self._space.name}' is a range {domain.low}..{domain.high}; a "
                f"supernet mixes the options of a choice only. {self._advice(key, domain.low)}"
            )
        built = {value: option_of(key, value, options)() for value in values}
        if len(built) == 1 and key not in self._mixtures:
            return built[values[0]]
        for value, module in built.items():
            if not isinstance(module, nn.Module):
                raise BuildError(
                    f"decision '{MODEL}{key}' cannot be mixed: option {value!r} is a {type(module).__name__}, not a "
                    f"torch module. {self._advice(key, values[0])}"
                )
        self.mixed.add(key)
        return Mixture(key, built)

    def width(self, key: str, maximum: int | None = None) -> int:
        """The largest of the widths that the space lists.

        Raises:
            BuildError: it is a continuous range, or above `maximum`.
        """
        values = self._values(key)
        if not values:
            raise BuildError(f"width '{MODEL}{key}' of space '{self._space.name}' must be whole numbers, not a range")
        widths = [width_of(key, value, maximum) for value in values]
        if len(values) > 1:
            self.widths[key] = values
        return max(widths)

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
        self._mixtures = _mixtures_in(self.network)

    @property
    def decisions(self) -> tuple[str, ...]:
        """What is left to choose, without `model.`: mixtures, then open widths."""
        return (*dict.fromkeys(mixture.key for mixture in self._mixtures), *self.widths)

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
            mixtures = _mixtures_in(self._running[0])
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
            raise BuildError(f"the supernet of space '{self.space.name}' needs to be told {', '.join(sorted(missing))}")
        mixtures = self._mixtures
        if self.widths:
            values = dict(widths or {})
            for key, share in shares.items():
                if len(share.active) == 1:
                    values[key] = self._options(key)[share.active[0]]
            self._running = (self.part(self._reachable(values)),)
            mixtures = _mixtures_in(self._running[0])
        for mixture in mixtures:
            share, options = shares[mixture.key], self._options(mixture.key)
            active = [index for index in share.active if options[index] in mixture.values]
            mixture.mix({options[i]: None if share.weights is None else share.weights[i] for i in active})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The active path or mixture: N x C x H x W -> N x classes."""
        out: torch.Tensor
        if not self._running:
            out = self.network(x)
            return out
        part = self._running[0]
        part.train(self.training)
        out = functional_call(part, leading_slices(part, self.network), (x,))
        return out

    def _options(self, key: str) -> tuple[Value, ...]:
        return self.space.domains[MODEL + key].values

    def _check(self, key: str, value: Value) -> None:
        domain = self.space.domains.get(MODEL + key)
        if domain is None:
            raise BuildError(f"the supernet of space '{self.space.name}' has no decision '{MODEL}{key}'")
        try:
            domain.check(value)
        except SpaceError as error:
            raise BuildError(f"the supernet of space '{self.space.name}', '{MODEL}{key}': {error}") from None

    def _reachable(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Without the decisions that hang below an option that is not taken."""
        given = {MODEL + key: value for key, value in values.items()}
        domains = self.space.fixed(given).domains
        return {key: value for key, value in values.items() if MODEL + key in domains}

    def part(self, values: Mapping[str, Value]) -> nn.Module:
        """The network of the space in which these decisions are taken, on the meta device; its tensors' names are ours.

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
        """Whether every width's every value can be sliced from the largest, for a sample of paths.

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
                        f'Leave it one value: space.fixed({{"{MODEL}{key}": {value!r}}})'
                    ) from None
        self._slices.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Supernet:
        """A copy without what runs: the copy has to be told."""
        copied = Supernet.__new__(Supernet)
        nn.Module.__init__(copied)
        memo[id(self)] = copied
        for name in ("space", "widths", "_mixed", "in_channels", "classes", "training"):
            setattr(copied, name, getattr(self, name))
        copied.network = copy.deepcopy(self.network, memo)
        copied._slices, copied._running = OrderedDict(), self._running
        copied._mixtures = _mixtures_in(copied.network)
        return copied


def leading_slices(part: nn.Module, whole: nn.Module) -> dict[str, torch.Tensor]:
    """For every tensor of `part` the leading slice of the tensor of that name in `whole`.

    Matrices are copied: on some processors the strides of a factor decide how a product's gradients are rounded, and a
    slice's are not those of the child's own matrix. All others are views, so that statistics are updated in place.

    Raises:
        BuildError: `whole` has no such tensor, or a smaller one.
    """
    # under every name that it has: a module shared by two places may be in one of them only in `part`
    tensors: dict[str, torch.Tensor] = {
        **dict(whole.named_parameters(remove_duplicate=False)),
        **dict(whole.named_buffers(remove_duplicate=False)),
    }
    found = {}
    for name, wanted in (*part.named_parameters(), *part.named_buffers()):
        tensor = tensors.get(name)
        if tensor is None:
            raise BuildError(f"the network has a tensor '{name}', which it has not at the largest width")
        piece = leading_slice(name, tensor, wanted.shape)
        found[name] = piece.contiguous() if isinstance(wanted, nn.Parameter) and wanted.dim() == 2 else piece
    return found


def leading_slice(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The leading `shape` of a tensor; the tensor itself where it has that shape.

    Raises:
        BuildError: the tensor is smaller, or of another number of dimensions.
    """
    if tensor.shape == tuple(shape):
        return tensor
    if tensor.dim() != len(shape) or any(have < want for have, want in zip(tensor.shape, shape, strict=True)):
        raise BuildError(f"tensor '{name}' is {tuple(shape)}, and cannot be sliced from {tuple(tensor.shape)}")
    return tensor[tuple(slice(size) for size in shape)]


def _option_from_behind(number: int) -> Choose:
    """Takes the last option of every decision for 0, the one before for 1, and so on around."""

    def choose(key: str, domain: Domain) -> Value:
        values = domain.values
        return values[-1 - number % len(values)]

    return choose


def _mixtures_in(network: nn.Module) -> list[Mixture]:
    return [module for module in network.modules() if isinstance(module, Mixture)]


class _Uninitialised(TorchFunctionMode):
    """Draws no initial values: on the meta device there are none, and drawing them is half the time of building."""

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
    """A recipe sets the probabilities of dropout on the supernet; its slices follow, whenever they were made."""
    for name, module in target.named_modules():
        if isinstance(module, (nn.Dropout, DropPath)):
            module.p = source.get_submodule(name).p  # type: ignore[assignment]


def build_supernet(space: SearchSpace, in_channels: int, classes: int) -> Supernet:
    """The supernet of a space, freshly initialised.

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
    """As `build_supernet`, on the meta device: says what cannot be mixed, computes nothing."""
    with torch.device("meta"), _Uninitialised():
        return build_supernet(space, in_channels, classes)
