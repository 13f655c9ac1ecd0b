"""Gradients held against two-sided differences in float64, module by module. For tests; no training calls it.

A module is called as the network called it, and the derivative of a random sum of its outputs along a random direction
is compared with (f(x + h d) - f(x - h d)) / 2h: for each of its inputs and each of its own parameters. Modules are
checked in the order in which they finish, so the innermost one that is wrong is named before those that contain it.

**Kinks.** ReLU, max pooling and the like have no derivative where two of their pieces meet, and a difference taken
across such a point is the derivative of neither piece. Therefore (1) inputs and parameters are moved off their exact
values by noise first, since zeros that a ReLU, a padding or an initialisation leaves lie on kinks; (2) a step h counts
only where the differences of h and of h / 2 agree, which they do not where a kink lies between. Else the step becomes
smaller, and then another direction is drawn; (3) a module without any such step is reported as not checked.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_unflatten

from nasforge.core.errors import BuildError, one_line
from nasforge.core.recipe import Recipe
from nasforge.models.blocks.drop_path import DropPath
from nasforge.tasks.classification import CLASSIFICATION
from nasforge.training.optimisation import optimizer_of

TOLERANCE = 1e-5
"""Largest error, relative to the derivative's terms."""
_LOSS_TOLERANCE = 1e-4
"""The same for the step of a whole network, which moves all weights at once past many kinks."""
_DECAY = 0.1
"""A smaller weight decay of a recipe is checked at this strength: next to the loss it would not show."""
STEPS = (1e-5, 1e-6, 1e-7, 1e-8)
"""Steps h, relative to the size of what is moved."""
_DRAWS = 3
_ROUNDING = 1e3 * torch.finfo(torch.float64).eps
_IMAGES = 4


@dataclass(frozen=True)
class Disagreement:
    """A gradient that is wrong.

    Attributes:
        module: name of the module in its network; empty for the network itself.
        layer: its class.
        tensor: what the gradient is of: `input 0`, or the name of a parameter.
        gradient: derivative along the direction that was drawn, by the backward pass.
        difference: the same by two-sided differences.
    """

    module: str
    layer: str
    tensor: str
    gradient: float
    difference: float

    def __str__(self) -> str:
        place = f"module '{self.module}' ({self.layer})" if self.module else f"the network ({self.layer})"
        return (
            f"{place}: the gradient of {self.tensor} is {self.gradient:.9g} along a random direction, two-sided "
            f"differences give {self.difference:.9g}; correct its backward pass"
        )


@dataclass(frozen=True)
class GradientCheck:
    """Outcome of a check.

    Attributes:
        modules: names of the modules whose gradients agree.
        largest_error: largest relative error among them.
        unchecked: sentences on modules whose gradients could not be compared.
        disagreement: the first that is wrong; None where all agree.
    """

    modules: tuple[str, ...]
    largest_error: float
    unchecked: tuple[str, ...] = ()
    disagreement: Disagreement | None = None

    @property
    def agrees(self) -> bool:
        """True if no gradient is wrong."""
        return self.disagreement is None


@dataclass(frozen=True)
class _Call:
    """One call of a module, with copies of what it got."""

    name: str
    module: nn.Module
    inputs: Any


class _Unchecked(Exception):
    """A derivative that cannot be compared; the message says why."""


class _Wrong(Exception):
    def __init__(self, tensor: str, gradient: float, difference: float) -> None:
        self.tensor, self.gradient, self.difference = tensor, gradient, difference
        super().__init__(tensor)


def check_gradients(
    network: nn.Module, shape: tuple[int, ...], *, classes: int = 0, recipe: Recipe | None = None, seed: int = 0
) -> GradientCheck:
    """Hold the gradients of a network, and of every module in it, against two-sided differences in float64.

    A copy is checked, on the CPU, in training mode with dropout off. At the end the whole network is checked with its
    loss, and with the weight decay of the recipe: one step of SGD must follow the gradient of
    loss + weight_decay / 2 * sum of the squares of the weights of convolutions and linear layers.

    Args:
        network: takes images N x C x H x W. It stays as it is.
        shape: channels, height, width.
        classes: number of logits, for the loss and the weight decay; 0: the network is a block, so there is none.
        recipe: has the weight decay; None: the default recipe.
        seed: of images, noise and directions.

    Raises:
        BuildError: the network cannot run in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    copied = copy.deepcopy(network).cpu().double().train()
    for module in copied.modules():
        if isinstance(module, (_DropoutNd, DropPath)):
            module.p = 0.0
    with torch.no_grad():
        for parameter in copied.parameters():
            size = float(parameter.square().mean().sqrt()) if parameter.numel() else 0.0
            parameter.add_(0.1 * (size + 0.1) * _noise(parameter, generator))
    images = torch.randn(_IMAGES, *shape, generator=generator, dtype=torch.float64)
    agreeing: list[str] = []
    largest, unchecked, seen = 0.0, [], set()
    for call in _calls_of(copied, images):
        kind = (repr(call.module), str([getattr(x, "shape", x) for x in tree_flatten(call.inputs)[0]]))
        if type(call.module).__module__.startswith("torch.nn.") and kind in seen:
            continue  # torch's layers are the same wherever they are; a layer of the user's may not be
        try:
            largest = max(largest, _check_call(call, generator))
        except _Unchecked as reason:
            unchecked.append(f"{call.name or 'the network'} ({type(call.module).__name__}): {reason}")
        except _Wrong as wrong:
            layer = type(call.module).__name__
            disagreement = Disagreement(call.name, layer, wrong.tensor, wrong.gradient, wrong.difference)
            return GradientCheck(tuple(agreeing), largest, tuple(unchecked), disagreement)
        else:
            seen.add(kind)
            agreeing.append(call.name)
    if classes:
        try:
            largest = max(largest, _check_step(copied, images, classes, recipe or Recipe(), generator))
        except _Unchecked as reason:
            unchecked.append(f"the loss of the network: {reason}")
        except _Wrong as wrong:
            place, _, tensor = wrong.tensor.rpartition(".")
            tensor = tensor or "all parameters"
            layer = type(copied.get_submodule(place)).__name__
            tensor = f"{tensor} (of loss and weight decay)"
            disagreement = Disagreement(place, layer, tensor, wrong.gradient, wrong.difference)
            return GradientCheck(tuple(agreeing), largest, tuple(unchecked), disagreement)
    return GradientCheck(tuple(agreeing), largest, tuple(unchecked))


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def _calls_of(network: nn.Module, images: Tensor) -> list[_Call]:
    """Return the first call of every module, in the order in which they finish, without plain containers."""
    waiting: dict[int, list[Any]] = {}
    calls: dict[int, _Call] = {}
    names = {id(module): name for name, module in network.named_modules()}
    handles = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        waiting.setdefault(id(module), []).append(_copied((args, kwargs)))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.setdefault(id(module), _Call(names[id(module)], module, waiting[id(module)].pop()))

    for module in network.modules():
        if type(module).forward is not nn.Sequential.forward:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            network(images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise BuildError(
            f"the network cannot run in float64, so its gradients cannot be checked: {one_line(error)}; keep constants "
            "by register_buffer, and convert nothing to a fixed type",
            kind="unsupported",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list(calls.values())


def _copied(inputs: Any) -> Any:
    leaves, structure = tree_flatten(inputs)
    return tree_unflatten([x.detach().clone() if isinstance(x, Tensor) else x for x in leaves], structure)


def _check_call(call: _Call, generator: torch.Generator) -> float:
    """Check the derivatives by all inputs of a call and all parameters of the module's own; return the largest error.

    Raises:
        _Unchecked: they cannot be compared.
        _Wrong: one is wrong.
    """
    leaves, structure = tree_flatten(call.inputs)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    for i in places:
        size = float(leaves[i].square().mean().sqrt()) if leaves[i].numel() else 0.0
        leaves[i] = (leaves[i] + 0.05 * (size or 1.0) * _noise(leaves[i], generator)).requires_grad_()
    parameters = {name: p for name, p in call.module.named_parameters(recurse=False) if p.requires_grad}
    moved = {f"input {number}": leaves[i] for number, i in enumerate(places)} | parameters
    weights: list[Tensor] = []

    def outputs() -> list[Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a layer that draws, draws the same each time
            copies = [x.clone() if isinstance(x, Tensor) else x for x in leaves]  # layers may work in place
            args, kwargs = tree_unflatten(copies, structure)
            made = tree_flatten(call.module(*args, **kwargs))[0]
        return [x for x in made if isinstance(x, Tensor) and x.is_floating_point()]

    def terms() -> Tensor:
        made = outputs()
        if any(x.dtype != torch.float64 for x in made):
            raise _Unchecked("it computes in a type of its own instead of float64")
        weights.extend(_noise(x, generator) for x in made[len(weights) :])
        return torch.cat([(x * w).flatten() for x, w in zip(made, weights, strict=True)]) if made else torch.zeros(0)

    value = terms().sum()
    if not value.requires_grad:
        return 0.0
    tensors = list(moved.values())
    gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    errors = [
        _compared(name, [tensor], [torch.zeros_like(tensor) if gradient is None else gradient], terms, generator)
        for (name, tensor), gradient in zip(moved.items(), gradients, strict=True)
    ]
    return max(errors, default=0.0)


def _compared(
    name: str,
    tensors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    terms: Callable[[], Tensor],
    generator: torch.Generator,
    tolerance: float = TOLERANCE,
) -> float:
    """Compare the gradients of tensors that move together with differences of the sum of `terms`.

    Returns:
        The relative error.

    Raises:
        _Unchecked: there is no step without a kink.
        _Wrong: they differ.
    """
    sizes = [float(x.detach().square().mean().sqrt()) if x.numel() else 0.0 for x in tensors]

    def along(directions: Sequence[Tensor], h: float) -> Tensor:
        kept = [x.detach().clone() for x in tensors]
        with torch.no_grad():
            for x, before, direction in zip(tensors, kept, directions, strict=True):
                x.copy_(before + h * direction)
            try:
                return terms()
            finally:
                for x, before in zip(tensors, kept, strict=True):
                    x.copy_(before)

    for _ in range(_DRAWS):
        directions = [(size or 1.0) * _noise(x, generator) for x, size in zip(tensors, sizes, strict=True)]
        parts = torch.cat([(g * d).flatten() for g, d in zip(gradients, directions, strict=True)])
        analytic, scale = float(parts.sum()), float(parts.square().sum().sqrt())
        numeric, rounding = _difference(partial(along, directions), scale, tolerance)
        if numeric is None:
            continue
        scale = max(scale, abs(numeric))
        if not abs(analytic - numeric) <= tolerance * scale + rounding:
            raise _Wrong(name, analytic, numeric)
        return abs(analytic - numeric) / scale if scale > rounding / tolerance else 0.0
    raise _Unchecked(f"it is not smooth along {name or 'its parameters'}, at any step down to {STEPS[-1]:g}")


def _difference(
    terms_at: Callable[[float], Tensor], scale: float, tolerance: float = TOLERANCE
) -> tuple[float | None, float]:
    """Return the two-sided difference at the first step that has no kink in it, and its rounding error.

    The terms of both sides are subtracted before they are added up, so that their rounding errors stay small.
    """
    for h in STEPS:
        above, below, nearer_above, nearer_below = (terms_at(step) for step in (h, -h, h / 2, -h / 2))
        whole, half = float((above - below).sum() / (2 * h)), float((nearer_above - nearer_below).sum() / h)
        rounding = _ROUNDING * float(above.square().sum().sqrt()) / h
        if not (math.isfinite(whole) and math.isfinite(half)):
            continue
        terms = float((above - below).square().sum().sqrt()) / (2 * h)  # a wrong gradient's scale may be too large
        if abs(whole - half) <= 0.3 * tolerance * min(terms, max(scale, abs(half))) + rounding:
            return half, rounding
    return None, 0.0


def _check_step(network: nn.Module, images: Tensor, classes: int, recipe: Recipe, generator: torch.Generator) -> float:
    """Check that one step of SGD follows the gradient of the loss and of the weight decay; return the largest error."""
    labels = torch.arange(len(images)) % classes
    spared: Collection[str] = getattr(network, "no_weight_decay", set)()
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    decayed = [p for name, p in parameters.items() if p.dim() > 1 and name not in spared]

    decay = max(recipe.weight_decay, _DECAY) if recipe.weight_decay else 0.0

    def terms() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = CLASSIFICATION.loss(network(images).double(), labels) / len(images)
        penalty = [decay / 2 * p.square().sum() for p in decayed]
        return torch.stack([loss.double(), *penalty])

    plain = replace(
        recipe, weight_decay=decay, optimizer="sgd", momentum=0.0, nesterov=False, learning_rate=1.0, layer_decay=1.0
    )
    optimizer = optimizer_of(network, plain)
    optimizer.zero_grad()
    terms()[0].backward()  # type: ignore[no-untyped-call]  # the optimizer adds the decay
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer.step()
    steps = {name: before[name] - p.detach() for name, p in parameters.items()}
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(before[name])
    if not parameters:
        return 0.0
    try:
        return _compared("", [*parameters.values()], [*steps.values()], terms, generator, _LOSS_TOLERANCE)
    except _Wrong:
        for name, p in parameters.items():  # which one is it?
            _compared(name, [p], [steps[name]], terms, generator, _LOSS_TOLERANCE)
        raise


def merged(checks: Sequence[GradientCheck]) -> GradientCheck:
    """Return several checks as one; the disagreement is that of the first that has one."""
    return GradientCheck(
        tuple(name for check in checks for name in check.modules),
        max((check.largest_error for check in checks), default=0.0),
        tuple(dict.fromkeys(reason for check in checks for reason in check.unchecked)),
        next((check.disagreement for check in checks if check.disagreement), None),
    )
