"""By which packages and modules a search measures: written into its header, compared when it continues."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from nasforge.core.events import DECODING
from nasforge.core.importing import files_named
from nasforge.settings.experiment import ExperimentConfig

_PACKAGES = ("nasforge", "torch", "torchvision", "timm", "ray", "optuna", "mlflow", "scikit-learn", "numpy")
_NOT_MEASURING = ("ray", "mlflow")
"""Packages that compute nothing that a trial measures."""
_MODULE = "module "


def versions_of(config: ExperimentConfig) -> dict[str, str]:
    """Map packages to versions, `decoding`, and each of the user's modules to a digest of its source."""
    content = {key: value for key, value in config.to_json().items() if key != "objectives"}  # "max:value" is none
    modules = {
        f"{_MODULE}{module}": f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        for module, file in files_named(content).items()
    }
    return {**_versions(), "decoding": str(DECODING), **modules}


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return notes on changed versions; a name that only one of the two has is left out.

    Args:
        then: of the header.
        now: of this process.
    """
    changed = [name for name in then if name in now and then[name] != now[name] and name not in _NOT_MEASURING]
    packages = [f"{name} {then[name]} (now {now[name]})" for name in changed if not name.startswith(_MODULE)]
    modules = [name.removeprefix(_MODULE) for name in changed if name.startswith(_MODULE)]
    notes = []
    if packages:
        notes.append(f"this search began with {', '.join(packages)}; new trials may come out differently")
    if modules:
        have = "has" if len(modules) == 1 else "have"
        listed = ", ".join(modules)
        notes.append(f"{listed} {have} changed since this search began; new trials may come out differently")
    return notes


@cache
def _versions() -> Mapping[str, str]:
    versions = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
