"""Paths as users write them, made whole."""

from __future__ import annotations

from pathlib import Path

from nasforge.core.errors import ConfigError


def whole_path(path: str | Path) -> Path:
    """Return an absolute path that means the same in every working folder; `~` is the home folder.

    Raises:
        ConfigError: there is no home folder of that name.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(
            f"'{path}': no such user has a home folder; write the path in full, or ./ before it", kind="missing"
        ) from None
