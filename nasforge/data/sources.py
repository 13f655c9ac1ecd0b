"""From what a user writes as `source` to the data set: registered names first, then files and folders."""

from __future__ import annotations

from pathlib import Path

from nasforge import registry
from nasforge.config import DataConfig
from nasforge.core.errors import DataError, did_you_mean
from nasforge.data import image_folder, npz
from nasforge.data.decoded import Source


def find(config: DataConfig) -> Source:
    """The source that `config` names, not read yet.

    Raises:
        DataError: there is no such name, file or folder.
    """
    names = registry.names("data")
    if config.source in names:
        source: Source = registry.get("data", config.source)(config)
        return source
    path = Path(config.source)
    if path.is_dir():
        return image_folder.find(config, path)
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(
                f"data file {path}: only .npz files are read (x_train, y_train, x_test, y_test), got '{path.suffix}'"
            )
        return npz.find(config, path)
    if path.is_absolute():
        raise DataError(f"data: there is no file or folder {path}; where the data were moved, give --data their place")
    hint = did_you_mean(config.source, names)
    raise DataError(f"data: '{config.source}' is neither a name, nor a file or folder in {Path.cwd()}; {hint}")


def notes_on(config: DataConfig) -> tuple[str, ...]:
    """Say so where a file or folder of this working folder is called as a registered data set and is not read."""
    if config.source not in registry.names("data") or not Path(config.source).exists():
        return ()
    return (
        f"data '{config.source}' are the data set of this name that NASForge knows; "
        f"{Path(config.source).absolute()} is not read: give --data ./{config.source} to use it",
    )
