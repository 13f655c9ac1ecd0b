"""The one place that turns `module:attribute` into an object: where modules are found, and that they may run.

Installed packages and the standard library come first, so that a file of the user's called `profile.py` hides
nothing. Then a module is looked for in the folder of the file that names it, and in the working folder. Such a folder
is added to the end of `sys.path` once a module is found there.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from nasforge.core import trust
from nasforge.core.errors import ConfigError

_REFERENCE = re.compile(r"([\w-]+)(?:\.[\w-]+)*:[A-Za-z_]\w*")
_BESIDE: dict[str, Path] = {}
"""Top-level module -> the folder of the file of settings that names it; the latest counts."""
_ELSEWHERE: list[Path] = []
"""Working folders of the process that started this one."""
MOVED = {
    "nasforge.finalists:build_reference": "nasforge.models.reference:build",
    "nasforge.exporters.onnx:to_onnx": "nasforge.exporters.onnx:Onnx",
    "nasforge.exporters.torch_export:to_torch_export": "nasforge.exporters.torch_export:TorchExport",
    "nasforge.exporters.safetensors:to_safetensors": "nasforge.exporters.safetensors:Safetensors",
}
"""Names in journals and network folders of earlier versions -> what they are called now."""
MOVED_MODULES = {
    "nasforge.blocks": "nasforge.models.blocks",
    "nasforge.evaluators.lookup_table": "nasforge.evaluators.table.lookup",
    "nasforge.strategies.darts": "nasforge.strategies.differentiable",
}
"""Modules and packages that hold plug-ins, in settings of earlier versions -> where they are now."""
_IN_THIS_PROCESS = frozenset({"strategy", "pruner", "evaluator", "runner", "exporter", "figure"})
"""Kinds of plug-ins that the process that names them imports; workers and later commands import all others again."""
_ADDED: set[str] = set()
"""Entries of `sys.path` that hold modules of the user's and no installed packages."""


@dataclass(frozen=True)
class Places:
    """Places where this process looks for modules, for processes that it starts; picklable.

    Attributes:
        path: entries of `sys.path`.
        added: those of them that hold no installed packages.
        beside: top-level module -> folder.
        working: working folders.
    """

    path: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    beside: dict[str, Path] = field(default_factory=dict)
    working: tuple[Path, ...] = ()


def places() -> Places:
    """Return the places where this process looks for modules."""
    here = tuple(_working_folders())
    path = tuple(str(Path(entry).absolute()) for entry in sys.path)
    return Places(path, tuple(_ADDED), dict(_BESIDE), here)


def adopt(places_of_driver: Places) -> None:
    """Look for modules where the process looks that started this one, after the places of this one."""
    _BESIDE.update(places_of_driver.beside)
    _ELSEWHERE.extend(folder for folder in places_of_driver.working if folder not in _ELSEWHERE)
    for entry in places_of_driver.path:
        if entry not in sys.path and Path(entry).exists():
            sys.path.append(entry)
            _ADDED.update({entry} & {*places_of_driver.added})


def registers_nothing(entry: str) -> None:
    """Mark an entry of `sys.path` as a folder of the user's modules, without installed packages."""
    _ADDED.add(entry)


def installed_path() -> list[str]:
    """Return `sys.path` without the folders that only hold modules of the user."""
    return [entry for entry in sys.path if entry and entry not in _ADDED]


def python_path() -> dict[str, str]:
    """Return the environment that lets a new process import this package; empty if it is installed.

    In a source tree that nobody installed, `python -m nasforge` finds the package in the working folder alone.
    """
    root = str(Path(__file__).absolute().parents[2])
    if root in installed_path() or root not in sys.path:
        return {}
    return {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


def look_beside(content: Any, file: Path | str) -> None:
    """Search also the folder of a file for the module of every `module:attribute` in its content."""
    folder = Path(file).absolute().parent
    for text in _texts(content):
        form = _REFERENCE.fullmatch(text)
        if form and _spec_in(folder, form[1]):
            _BESIDE[form[1]] = folder


def forwarded(reference: str) -> str:
    """Return the present name of `module:attribute`; any other text comes back as it is."""
    if not reference.startswith("nasforge."):
        return reference
    for old, new in MOVED_MODULES.items():
        if reference.startswith((f"{old}.", f"{old}:")):
            return new + reference.removeprefix(old)
    return MOVED.get(reference, reference)


def load(reference: str, what: str, *, registered: bool = False) -> Any:
    """Import the object that `module:attribute` names.

    Args:
        reference: the text.
        what: how a message calls it: `builder 'mine:build'`.
        registered: it stands for a registered name, which needs no consent.

    Raises:
        TrustError: the text comes from a file, and the user has not agreed to it.
        ConfigError: no such module or attribute, the module breaks while it is imported, or it is `__main__`, which
            other processes cannot import.
    """
    reference, key = forwarded(reference), trust.plugin_kind(what)
    module, _, attribute = reference.partition(":")
    if module == "__main__" and key not in _IN_THIS_PROCESS:
        raise ConfigError(f"{what}: {_not_main(attribute)}", kind="unsupported", key=key)
    if not registered and reference not in trust.OURS:
        source = _find(module, reference, what)
        trust.admit(reference, what, source.files, changed=source.changed)
        if source.folder is not None and str(source.folder) not in sys.path:
            sys.path.append(str(source.folder))
            _ADDED.add(str(source.folder))
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError as error:
        if module in sys.modules:
            raise ConfigError(
                f"{what}: module {module} has no '{attribute}'{_hidden(module)}", kind="missing", key=key
            ) from None
        raise ConfigError(f"{what}: {module} breaks while it is imported: {error}", kind="failed", key=key) from error
    except ImportError as error:
        raise ConfigError(
            f"{what}: cannot import {module}: {error}{_hidden(module)}", kind="failed", key=key
        ) from error
    except Exception as error:  # a user's module may raise anything
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{what}: {module} breaks while it is imported: {cause}", kind="failed", key=key) from error


def files_named(content: Any) -> dict[str, Path]:
    """Map every module of a `module:attribute` in a content to its file, unless it is ours; imports nothing."""
    files_of_modules: dict[str, Path] = {}
    for text in _texts(content):
        form = _REFERENCE.fullmatch(text)
        if form is None or form[1] == "nasforge":
            continue
        module = text.partition(":")[0]
        try:
            files = _find(module, text, module).files
        except ConfigError:  # the function that loads it reports this
            continue
        if files and files[-1].is_file():
            files_of_modules[module] = files[-1]
    return files_of_modules


def source_of(module: str) -> Path | None:
    """Return the source file of an installed module without importing it; None if there is none."""
    files = _files_of(module)
    return files[-1] if files and files[-1].suffix == ".py" else None


# --- finding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Location:
    """A module that can be imported.

    Attributes:
        files: what importing it runs: its own file, after those of the packages around it.
        folder: must be added to `sys.path` first; None where the module is found without.
        changed: only an earlier consent leads to the folder, and the files have changed since then.
    """

    files: tuple[Path, ...]
    folder: Path | None = None
    changed: bool = False


def _find(module: str, reference: str, what: str) -> _Location:
    """Find a module without running any of it.

    Raises:
        ConfigError: there is no such module, two of the user's have its name, or it is the path of a file.
    """
    top, depth, key = module.partition(".")[0], module.count("."), trust.plugin_kind(what)
    files = _files_of(module)
    if files is not None:
        _refuse_two(top, files, what)
        return _Location(files)
    importlib.invalidate_caches()  # a file may be younger than the last look at its folder
    looked = _folders(top)
    locations = [_Location(files, folder) for folder in looked if (files := _files_of(module, folder)) is not None]
    if locations:
        return locations[0]
    for changed in (False, True):
        earlier = trust.remembered_folders(reference, depth, changed=changed)
        locations = [
            _Location(files, folder, changed) for folder in earlier if (files := _files_of(module, folder)) is not None
        ]
        if len(locations) > 1:
            listed = ", ".join(str(one.folder) for one in locations)
            raise ConfigError(
                f"{what}: there are several modules {module}, in {listed}. Add the right folder to PYTHONPATH",
                kind="conflict",
                key=key,
            )
        if locations:
            return locations[0]
    if "/" in module or module.endswith(".py"):
        raise ConfigError(f"{what}: {_not_a_file(reference)}", kind="type", key=key)
    places_ = ", ".join(["the installed packages", *map(str, looked)])
    raise ConfigError(
        f"{what}: cannot import {module}: there is no such module in {places_}. Install its package, type the command "
        f"in the folder of {top}.py, or add that folder to PYTHONPATH",
        kind="missing",
        key=key,
    )


def _not_main(attribute: str) -> str:
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "").stem
    or_script = f", or {script}:{attribute} if importing {script}.py starts nothing" if script.isidentifier() else ""
    return (
        f"workers and later commands cannot import __main__. Put {attribute} into a module and write "
        f"my_module:{attribute}{or_script}"
    )


def _not_a_file(reference: str) -> str:
    path, _, attribute = reference.partition(":")
    file = Path(path)
    folder = "" if file.parent == Path() else f", and add its folder {file.parent} to PYTHONPATH"
    return f"write a module, not a file: {file.name.removesuffix('.py')}:{attribute}{folder}"


def _files_of(module: str, folder: Path | None = None) -> tuple[Path, ...] | None:
    """Return the files of a module and its parent packages, in `folder` or on `sys.path`; None if there are none."""
    files: list[Path] = []
    name, file = "", None
    search: Any = None if folder is None else [str(folder)]
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        loaded = sys.modules.get(name)
        if loaded is not None:
            file, search = getattr(loaded, "__file__", None), getattr(loaded, "__path__", None)
        else:
            spec = _spec(name, search) if part else None
            if spec is None or (spec.loader is None and name == module):
                return None  # nothing, or a folder without any code of its own
            file, search = spec.origin if spec.has_location else None, spec.submodule_search_locations
        if file:
            files.append(Path(file))
        if name != module and search is None and module not in sys.modules:  # `os.path` is one, `os` no package
            return None
    return tuple(files)


def _spec(name: str, search: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, search)
        if spec is not None:
            return spec
    return None


def _spec_in(folder: Path, top: str) -> ModuleSpec | None:
    """Return the spec of a module or package in a folder."""
    return PathFinder.find_spec(top, [str(folder)])


def _folders(top: str) -> list[Path]:
    """Return the folders to search for a module of the user, in order."""
    of_files = [_BESIDE[top]] if top in _BESIDE else []
    return list(dict.fromkeys([*of_files, *_ELSEWHERE, *_working_folders()]))


def _working_folders() -> list[Path]:
    try:
        return [Path.cwd()]
    except OSError:  # it was deleted
        return []


def _refuse_two(top: str, files: Sequence[Path], what: str) -> None:
    """Refuse a module where a file of the user's has its name, and nobody can tell which of them is meant.

    An installed package counts before a file of its name in the working folder, unless it has no such attribute.
    """
    taken, key = files[0] if files else None, trust.plugin_kind(what)
    if top in sys.stdlib_module_names and (file := _hidden_file(top, taken)):
        raise ConfigError(f"{what}: {_HIDES.format('Python has a module of its own', file)}", kind="conflict", key=key)
    meant = _file_in(_BESIDE[top], top) if top in _BESIDE else None
    if meant is None or taken is None or not any(taken.is_relative_to(folder) for folder in _ADDED):
        return
    if not taken.samefile(meant) and taken.read_bytes() != meant.read_bytes():
        raise ConfigError(
            f"{what}: {taken} and {meant} are both called {top}. Rename one of them", kind="conflict", key=key
        )


_HIDES = "{} of this name, and it hides your {}. Rename your file"


def _hidden(module: str) -> str:
    """Return the end of a message if a file of the user has the name of an installed module."""
    top = module.partition(".")[0]
    taken = getattr(sys.modules.get(top), "__file__", None)
    file = _hidden_file(top, Path(taken)) if taken else None
    return f": {_HIDES.format('there is an installed module', file)}" if file else ""


def _hidden_file(top: str, taken: Path | None) -> Path | None:
    """Return the user's file that is not imported because the module in `taken` has its name."""
    for folder in _folders(top):
        file = _file_in(folder, top)
        if file is not None and (taken is None or not file.samefile(taken)):
            return file
    return None


def _file_in(folder: Path, top: str) -> Path | None:
    """Return the file of a module or package in a folder."""
    spec = _spec_in(folder, top)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _texts(value)
