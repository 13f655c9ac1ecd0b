"""Temporary folders of a driver: only its user may enter them, and the next driver removes what a killed one left."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "nasforge_ray_"
_LOCK = "lock"
_LOCKED_WITHIN_S = 60.0
"""A folder this young may belong to a driver that is about to lock it."""
_REMOVALS, _REMOVED_AGAIN_S = 50, 0.1
"""Attempts to remove a folder, and seconds between two of them."""
_LONGEST_PATH = 40
"""Linux allows 107 bytes for a socket's path, and Ray appends 66."""


class PrivateFolder:
    """A temporary folder that belongs to this process.

    Attributes:
        path: of the folder.
        keep: leave the folder for the user to read, until the next driver starts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keep = False


@contextmanager
def private_folder() -> Iterator[PrivateFolder]:
    """Make a folder that only this user may enter; remove it, and the processes that work in it, after the block.

    A driver that was killed removes nothing, so the next one does it.
    """
    place = Path(tempfile.gettempdir())
    if len(str(place)) + len(PREFIX) + 9 > _LONGEST_PATH:
        place = Path("/tmp")  # noqa: S108  (the folder in it is private)
    _remove_leftovers(place)
    folder, lock = _locked_folder(place)
    try:
        yield folder
    finally:
        end_processes(folder.path)
        if not folder.keep:
            _remove(folder.path)
        os.close(lock)


def _locked_folder(place: Path) -> tuple[PrivateFolder, int]:
    """Make a folder; returns it with its lock."""
    while True:
        folder = PrivateFolder(Path(tempfile.mkdtemp(prefix=PREFIX, dir=place)))
        lock = os.open(folder.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)  # another driver came between the two lines above, and took the folder for a leftover


def _remove(folder: Path) -> None:
    """Remove a folder in which a process that was killed just now may still write its last file."""
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_REMOVED_AGAIN_S)
        end_processes(folder)


def _remove_leftovers(place: Path) -> None:
    """Remove the folders of drivers that are gone, and end the processes that still work there."""
    for path in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            about = path.lstat()
            if about.st_uid != os.getuid() or not path.is_dir() or path.is_symlink():
                continue
            try:
                lock = os.open(path / _LOCK, os.O_RDWR)
            except FileNotFoundError:
                if time.time() - about.st_mtime > _LOCKED_WITHIN_S:
                    shutil.rmtree(path, ignore_errors=True)
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError while its driver lives
                end_processes(path)
                _remove(path)
            finally:
                os.close(lock)


def end_processes(folder: Path) -> None:
    """Kill Ray's processes that have a file open below `folder`: Ray names its session nowhere else that is sure.

    Some agents and workers outlive a raylet that was killed. Does nothing where there is no `/proc`.
    """
    inside = f"{folder}/"
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            if b"ray::" not in command and b"/ray/" not in command:
                continue
            if any(str(descriptor.readlink()).startswith(inside) for descriptor in (process / "fd").iterdir()):
                os.kill(int(process.name), signal.SIGKILL)
