"""From what a user writes as `source` to the data set: a table of names, then files, folders and torchvision."""

from __future__ import annotations

from pathlib import Path

from nasforge.config import DataConfig
from nasforge.core.errors import DataError, did_you_mean
from nasforge.data import digits, image_folder, npz, torchvision_sets
from nasforge.data.decoded import Source

NAMED = {"digits": digits.find}
"""Sources that need neither a file nor a download; one line each."""


def find(config: DataConfig) -> Source:
    """The source that `config` names, not read yet.

    Raises:
        DataError: there is no such name, file or folder.
    """
    if config.source in NAMED:
        return NAMED[config.source](config)
    if config.source in torchvision_sets.KNOWN:
        return torchvision_sets.find(config)
    path = Path(config.source).expanduser().absolute()
    if path.is_dir():
        return image_folder.find(config, path)
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(
                f"data file {path}: only .npz files are read (x_train, y_train, x_test, y_test), got '{path.suffix}'"
            )
        return npz.find(config, path)
    if "/" in config.source or path.suffix:
        raise DataError(f"data: there is no file or folder {path}")
    hint = did_you_mean(config.source, [*NAMED, *torchvision_sets.KNOWN])
    raise DataError(f"data: '{config.source}' is neither a name, nor a file or folder in {Path.cwd()}; {hint}")
