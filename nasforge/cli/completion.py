"""Shell completion: the values of arguments and options that the shell offers after Tab.

Each function takes what stands before the cursor and returns the values that begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import typer

from nasforge import registry
from nasforge.core.paths import whole_path
from nasforge.experiment.journal import campaigns_in, experiments_in, fits_in
from nasforge.settings.experiment import NO_PRUNER
from nasforge.settings.space_file import shipped_recipes, shipped_spaces

_YAML = (".yaml", ".yml")


def experiments(context: typer.Context, incomplete: str) -> list[str]:
    """Names in the runs folder: of searches, fits, campaigns and calibrations."""
    folder = whole_path(context.params.get("runs_dir") or Path("runs"))
    folders = (*experiments_in(folder), *fits_in(folder, searching=False), *campaigns_in(folder))
    return _beginning(incomplete, {path.name for path in folders})


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Experiments, and folders of networks."""
    return [*experiments(context, incomplete), *_paths(incomplete, ())]


def spaces(incomplete: str) -> list[str]:
    """Shipped search spaces, and YAML files."""
    return [*_beginning(incomplete, shipped_spaces()), *_paths(incomplete, _YAML)]


def described(incomplete: str) -> list[str]:
    """Shipped search spaces, references of `retrain`, and YAML files."""
    return sorted({*spaces(incomplete), *_beginning(incomplete, registry.names("reference"))})


def recipes(incomplete: str) -> list[str]:
    """Shipped recipes, and YAML files."""
    return [*_beginning(incomplete, shipped_recipes()), *_paths(incomplete, _YAML)]


def data(incomplete: str) -> list[str]:
    """Registered data sets, `.npz` files and folders."""
    return [*_beginning(incomplete, registry.names("data")), *_paths(incomplete, (".npz",))]


def pruners(incomplete: str) -> list[str]:
    """Pruners, and `none`."""
    return _beginning(incomplete, (*registry.names("pruner"), NO_PRUNER))


def plugins(kind: str) -> Callable[[str], list[str]]:
    """Return a completion by the registered names of a kind; after a comma it begins again."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in _beginning(last, registry.names(kind))]

    return complete


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def _paths(incomplete: str, endings: Collection[str]) -> list[str]:
    """Folders, with a slash, and files with one of the endings."""
    folder, slash, start = incomplete.rpartition("/")
    place = Path(f"{folder}{slash}" or ".").expanduser()
    try:
        entries = sorted(place.iterdir())
    except OSError:
        return []
    shown = [path for path in entries if path.name.startswith(start) and (start or not path.name.startswith("."))]
    return [
        f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
        for path in shown
        if path.is_dir() or path.suffix in endings
    ]
