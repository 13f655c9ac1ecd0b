"""From an architecture to a network, by the builder that its space names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nasforge import registry
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, NasforgeError
from nasforge.core.protocols import Pick
from nasforge.core.space import SearchSpace
from nasforge.models.pick import Fixed
from nasforge.models.registration import check_state


def resolve_builder(space: SearchSpace) -> Callable[..., nn.Module]:
    """Import the function that the space's `builder` names.

    Raises:
        ConfigError: no such name, or its module cannot be imported.
        BuildError: it is not callable.
    """
    if not space.builder:
        raise BuildError(
            f"space '{space.name}' names no builder, so its points can only be looked up in a table; add a builder",
            kind="missing",
            key="builder",
        )
    builder = registry.get("builder", space.builder)
    if not callable(builder):
        raise BuildError(
            f"space '{space.name}': builder '{space.builder}' is a {type(builder).__name__}, expected a function",
            kind="type",
            key="builder",
        )
    return builder  # type: ignore[no-any-return]


def build(space: SearchSpace, architecture: Architecture, *, in_channels: int, classes: int) -> nn.Module:
    """Build the network of one architecture, freshly initialised from torch's generator.

    Args:
        space: the space that the architecture belongs to.
        architecture: its `model.*` decisions are read, each at least once.
        in_channels: C of the input N x C x H x W.
        classes: size of the output N x classes.

    Raises:
        BuildError: a decision is unknown to the builder or was not read, or shapes do not fit.
        ConfigError: the builder cannot be imported.
    """
    pick = Fixed(architecture)
    network = call_builder(space, pick, in_channels=in_channels, classes=classes)
    pick.finish()
    return network


def fresh(space: SearchSpace, architecture: Architecture, seed: int, *, in_channels: int, classes: int) -> nn.Module:
    """Build the network as a seed initialises it, without changing torch's generator. Otherwise as `build`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change the GPUs' generators as well
        return build(space, architecture, in_channels=in_channels, classes=classes)


def fresh_and_whole(
    space: SearchSpace, architecture: Architecture, seed: int, *, shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """Build the network as `fresh` for images of `shape`, and check that its state_dict is complete.

    Networks made only of modules of torch and NASForge are known to be, and are not built a second time.

    Raises:
        BuildError: also for a network that keeps random numbers outside of its state_dict.
    """
    network = fresh(space, architecture, seed, in_channels=shape[0], classes=classes)
    if not _is_known(space, network):
        other = fresh(without_start(space), architecture, seed + 1, in_channels=shape[0], classes=classes)
        check_state(network, other, shape)
    return network


def _is_known(space: SearchSpace, network: nn.Module) -> bool:
    """Return whether the builder of a network, its blocks and the classes of its modules are of torch or NASForge.

    A block of somebody else may put random numbers into modules of torch, so it counts even where it adds no class.
    """
    if space.arguments.get("blocks") or set(registry.names("block")) != set(registry.BUILT_IN["block"]):
        return False
    places = {resolve_builder(space).__module__, *(type(module).__module__ for module in network.modules())}
    return all(place.startswith(("torch.nn.modules.", "nasforge.models.")) for place in places)


def without_start(space: SearchSpace) -> SearchSpace:
    """Return the space without the builder's arguments `weights` and `pretrained`, where a training starts.

    A trained network is built without them: it has weights of its own, and must load where those files are not.
    """
    kept = {key: value for key, value in space.arguments.items() if key not in ("weights", "pretrained")}
    return replace(space, arguments=kept)


def call_builder(space: SearchSpace, pick: Pick, *, in_channels: int, classes: int) -> nn.Module:
    """Call the space's builder with its fixed arguments; any error that it raises becomes a BuildError.

    Raises:
        BuildError: the builder failed or did not return a module.
    """
    builder = resolve_builder(space)
    try:
        network = builder(pick, in_channels=in_channels, classes=classes, **space.arguments)
    except (NasforgeError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise BuildError(
            f"space '{space.name}': builder '{space.builder}' failed with in_channels={in_channels}, "
            f"classes={classes}, arguments {dict(space.arguments)}: {type(error).__name__}: {error}",
            kind="failed",
            key="builder",
        ) from error
    if not isinstance(network, nn.Module):
        raise BuildError(
            f"space '{space.name}': builder '{space.builder}' returned {network!r}, expected a torch module",
            kind="type",
            key="builder",
        )
    lazy = next((name for name, parameter in network.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise BuildError(
            f"space '{space.name}': builder '{space.builder}' leaves the size of '{lazy}' open until the first images; "
            "use nn.Linear, nn.Conv2d ... with their sizes instead of the lazy module",
            kind="unsupported",
            key="builder",
        )
    return network
