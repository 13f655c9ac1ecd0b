"""From what a user writes as `source` to the data set: registered names first, then files and folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from nasforge import registry
from nasforge.core.errors import DataError
from nasforge.core.paths import like_path
from nasforge.data import image_folder, npz
from nasforge.data.decoded import Allocate, Decoded, Source, malformed
from nasforge.data.split import Split
from nasforge.settings.experiment import DataConfig
from nasforge.settings.values import is_made, made_of, unknown_source


def find(config: DataConfig) -> Source:
    """Return the source that `config` names, not read yet.

    Raises:
        DataError: there is no such name, file or folder.
    """
    names = registry.names("data")
    if pair := made_of(config.source):
        return _made(config, *pair)
    if config.source in names and not is_made(config.source):
        source = _of_plugin(config.source, registry.get("data", config.source)(config))
        return _noted(source, config.source) if Path(config.source).exists() else source
    path = Path(config.source)
    if path.is_dir():
        return image_folder.find(config, path)
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(
                f"data file {path}: only .npz files are read (x_train, y_train, x_test, y_test), got '{path.suffix}'",
                kind="unsupported",
                key="data.source",
            )
        return npz.find(config, path)
    if path.is_absolute():
        near = like_path(path)
        place = path.resolve() if ".." in path.parts else path
        raise DataError(
            f"data: there is no file or folder {place}.{near} Check the path; if the data moved, set --data to the new "
            "place",
            kind="missing",
            key="data.source",
        )
    raise DataError(f"data: {unknown_source(config.source)}", kind="unknown", key="data.source")


def image_names(config: DataConfig) -> list[str] | None:
    """Return the name of each image of a source, by its row in `Split.pixels`; None where the source has no names.

    The names of a folder's images are their paths in it, with `/`. Those of a `.npz` file are in its array `files`.

    Raises:
        DataError: the folder has other contents than when it was read.
    """
    path = Path(config.source)
    if config.source in registry.names("data"):
        return None
    if path.is_dir():
        files, _ = image_folder.listing(path)
        return [file.relative_to(path).as_posix() for rows in files.values() for file, _ in rows]
    return npz.image_names(path) if path.is_file() else None


def image_ids(config: DataConfig, split: Split) -> np.ndarray:
    """Return the name of each image of a split, or its position in the split where the source has no names.

    Raises:
        DataError: as `image_names`.
    """
    names = image_names(config)
    return np.arange(len(split)) if names is None else np.array(names, dtype=np.str_)[split.index]


def _made(config: DataConfig, name: str, inner: str) -> Source:
    """Return a data set that is made of another one, which is read at the size that the first asks for."""

    def find_inner(resolution: int | None) -> Source:
        return find(replace(config, source=inner, resolution=resolution))

    return _of_plugin(name, registry.get("data", name)(config, find_inner))


def _of_plugin(name: str, source: object) -> Source:
    """Return what a registered data set found, if it is a source, with a check of what it will read.

    Raises:
        DataError: it is none.
    """
    if not isinstance(source, Source):
        raise DataError(
            f"data '{name}': its function returned a {type(source).__name__}, expected a nasforge.data.decoded.Source",
            kind="type",
            key="data.source",
        )
    if name in registry.BUILT_IN["data"]:
        return source

    def read(allocate: Allocate) -> Decoded:
        decoded = source.read(allocate)
        problem = malformed(decoded)
        if problem:
            raise DataError(f"data '{name}': {problem}", kind="invalid", key="data.source")
        return decoded

    return replace(source, read=read)


def _noted(source: Source, name: str) -> Source:
    """Return a registered source with the note that a file or folder of its name is not read, also in errors."""
    note = (
        f"data '{name}' is the data set that NASForge knows by this name; {Path(name).absolute()} is not read: "
        f"give --data ./{name} to use it"
    )

    def read(allocate: Allocate) -> Decoded:
        try:
            return source.read(allocate)
        except DataError as error:
            raise DataError(f"{error}; {note}", kind=error.kind, key=error.key) from error

    return replace(source, read=read, notes=(*source.notes, note))
