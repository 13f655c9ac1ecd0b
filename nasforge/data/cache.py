"""Decode once per node: the images as a `.npy` file that all worker processes map into memory.

The cache is in `$NASFORGE_CACHE`, else `~/.cache/nasforge`. It may be a node's own disk (fastest) or a shared folder.
What must be visible to all nodes of a cluster under the same path: the data source itself (the `.npz` file, the image
folder, torchvision's folder) and the experiment's folder. Delete the cache whenever you like.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nasforge.core.architecture import digest
from nasforge.core.errors import DataError
from nasforge.core.events import DECODING
from nasforge.data.decoded import Decoded, Source
from nasforge.data.input_rule import InputRule
from nasforge.experiment.journal import sync_folder

FORMAT = (DECODING, 1)
"""Entries of another version of the decoding, or of the entry's own files, are not used."""
_DAMAGED = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError)


def cache_folder() -> Path:
    """Return the folder of decoded data sets on this node.

    Raises:
        DataError: it is in a home folder, and there is none, as in some containers.
    """
    configured = os.environ.get("NASFORGE_CACHE")
    try:
        if not configured:
            return Path.home() / ".cache" / "nasforge"
        folder = Path(configured).expanduser().absolute()
    except RuntimeError:
        raise DataError(
            f"the data cache {configured or '~/.cache/nasforge'} has no place, because there is no such home folder; "
            "set NASFORGE_CACHE to a folder of this machine with room for the decoded images",
            kind="missing",
            key="NASFORGE_CACHE",
        ) from None
    os.environ["NASFORGE_CACHE"] = str(folder)  # workers that this process starts have another working folder
    return folder


def decoded(source: Source) -> tuple[Decoded, str]:
    """Return the source's images and the hash of their content, from the cache if it has them.

    Raises:
        DataError: the source is malformed, or the cache folder cannot be written.
    """
    if source.key is None:
        images = source.read(lambda shape: np.empty(shape, np.uint8))
        return images, images.content_hash()
    place = cache_folder() / "data" / digest([FORMAT, source.key])
    try:
        with _locked(place.with_suffix(".lock")):
            try:
                return _read(place)
            except _DAMAGED:  # or not decoded yet
                _remove(place)
            _decode(source, place)
            try:
                return _read(place)
            except _DAMAGED as error:
                raise DataError(
                    f"the data cache {place} is damaged again as soon as it is written ({type(error).__name__}: "
                    f"{error}); set NASFORGE_CACHE to a folder on another disk",
                    kind="failed",
                    key="NASFORGE_CACHE",
                ) from error
    except OSError as error:
        raise DataError(
            f"the data cache {place.parent} cannot be used ({error}); "
            "set NASFORGE_CACHE to a folder of this machine with room for the decoded images",
            kind="failed",
            key="NASFORGE_CACHE",
        ) from error


def _read(place: Path) -> tuple[Decoded, str]:
    """Return the content of an entry of the cache; a damaged one raises an error of `_DAMAGED`."""
    about = json.loads((place / "about.json").read_text(encoding="utf-8"))
    kept = Decoded(
        images=np.load(place / "images.npy", mmap_mode="r"),
        labels=np.load(place / "labels.npy"),
        sizes=about["sizes"],
        class_names=tuple(about["class_names"]),
        notes=tuple(about["notes"]),
        groups=np.load(place / "groups.npy") if about["grouped"] else None,
        input=InputRule.from_json(about["input"]) if about["input"] else None,
    )
    if len(kept.images) != len(kept.labels):
        raise ValueError(f"{len(kept.images)} images and {len(kept.labels)} labels")
    return kept, str(about["content_hash"])


def _remove(place: Path) -> None:
    """Remove an entry of the cache; a process that has its images mapped keeps them."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _decode(source: Source, place: Path) -> None:
    """Fill a temporary folder, then rename it: a cache folder is whole or does not exist."""
    temporary = place.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed; we hold the lock
    temporary.mkdir()

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        images = np.lib.format.open_memmap(temporary / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
        _reserve(temporary / "images.npy")
        return images

    try:
        fresh = source.read(allocate)
        if isinstance(fresh.images, np.memmap):
            fresh.images.flush()
        np.save(temporary / "labels.npy", fresh.labels)
        if fresh.groups is not None:
            np.save(temporary / "groups.npy", fresh.groups)
        about = {
            "sizes": fresh.sizes,
            "class_names": fresh.class_names,
            "notes": fresh.notes,
            "grouped": fresh.groups is not None,
            "input": fresh.input.to_json() if fresh.input else None,
            "content_hash": fresh.content_hash(),
        }
        (temporary / "about.json").write_text(json.dumps(about))
        for file in temporary.iterdir():
            sync_folder(file)
        temporary.rename(place)
        sync_folder(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reserve(path: Path) -> None:
    """Give a file its room on the disk: where a mapped one finds none later, the system kills the process.

    Raises:
        OSError: there is no such room.
    """
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot reserve
                raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system gives back when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
