"""Paths as users write them, made whole."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from nasforge.core.errors import ConfigError


def whole_path(path: str | Path) -> Path:
    """Return an absolute path that means the same in every working folder; `~` is the home folder.

    Raises:
        ConfigError: there is no home folder of that name, or no file can have this path.
    """
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r} has a NUL character (\\0), which no path can have; remove it", kind="invalid")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(
            f"'{path}': no such user has a home folder; write the path in full, or ./ before it", kind="missing"
        ) from None


def absolute_path(text: str | Path, folder: Path | None = None) -> str:
    """Return the absolute form of a path, since workers have another working folder.

    Args:
        text: from the user.
        folder: where to look first, for paths in a file; else the working folder.
    """
    path = home_expanded(text)
    relative = folder / path if folder else path
    return str((relative if is_there(relative) else path).absolute())


def path_or_name(text: str, folder: Path | None = None) -> str:
    """Return the absolute path, but a plain name unchanged: no slash, no suffix, and no such file or folder."""
    looks_like_path = "/" in text or text.startswith("~") or Path(text).suffix
    absolute = absolute_path(text, folder)
    return absolute if looks_like_path or (text and is_there(Path(absolute))) else text


def home_expanded(path: str | Path) -> Path:
    """Expand `~` or `~user` at a path's start; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: Path) -> bool:
    """Return whether a file or folder has this path; False too if the system cannot look the path up."""
    try:
        return path.exists()
    except OSError:
        return False


def inside(folder: Path, name: str | Path) -> Path | None:
    """Return the path of a name below a folder, links followed; None where it is outside or no file can have the name.

    Args:
        folder: which neither `..` nor a link may leave.
        name: relative to the folder, or an absolute path; there need not be such a file.
    """
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder.resolve()) else None
    except (OSError, RuntimeError, ValueError):  # a link to itself; a NUL, or a letter that no file name has
        return None


def file_inside(folder: Path, name: str | Path) -> Path | None:
    """Return the path of a file below a folder as `inside` does; None where there is no such file."""
    path = inside(folder, name)
    return path if path is not None and os.path.isfile(path) else None  # noqa: PTH113  (a Path raises at a long name)


def like_path(path: str | Path) -> str:
    """Return the end of an error message for a path that is not there: names next to it that look alike; else empty.

    Hidden files are not named, unless the path names one.

    Example:
        >>> like_path("photo/cells")  # with a folder `photos`
        " Did you mean 'photos/cells'?"
    """
    place = Path(path)
    try:
        missing = next((each for each in (*reversed(place.parents), place) if not each.exists()), place)
        hidden = missing.name.startswith(".")
        names = [each.name for each in missing.parent.iterdir() if hidden or not each.name.startswith(".")]
    except (OSError, ValueError):  # a folder that may not be read, a name that no file can have
        return ""
    close = difflib.get_close_matches(missing.name, names, n=2)
    rest = place.relative_to(missing)
    return f" Did you mean {' or '.join(repr(str(missing.with_name(name) / rest)) for name in close)}?" if close else ""
