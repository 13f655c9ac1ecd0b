"""Locks on files that the system releases when their process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""Errors of a lock that another process holds. Others mean that the storage has no locks."""
_LOOK_S = 0.05


class Lock:
    """An exclusive lock on a file, held until `close` or the end of the process. Its forked children do not hold it.

    On storage without locks everybody gets it.

    Attributes:
        handle: of the open file; -1 after `close`, and in a forked child.
    """

    def __init__(self, file: Path) -> None:
        """Open or create `file`, and lock it.

        Raises:
            BlockingIOError: another process holds the lock.
            OSError: the file cannot be opened.
        """
        self.handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if not _locks(self.handle, fcntl.LOCK_EX):
            time.sleep(_LOOK_S)  # maybe `is_locked`, which holds it for a moment
            if not _locks(self.handle, fcntl.LOCK_EX):
                os.close(self.handle)
                raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock", str(file))
        _held.add(self)

    def close(self) -> None:
        """Release the lock; in a forked child the parent keeps it."""
        if self in _held:
            _held.remove(self)
            os.close(self.handle)
            self.handle = -1


_held: set[Lock] = set()


def _close_in_child() -> None:
    """Close the files that a forked child inherits: the system releases a lock when no process has its file open."""
    for lock in tuple(_held):
        lock.close()


os.register_at_fork(after_in_child=_close_in_child)


def is_locked(file: Path) -> bool:
    """Tell whether a process holds the lock on a file; False where there is no such file, or no locks."""
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _locks(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _locks(handle: int, kind: int) -> bool:
    """Lock an open file, or go on without where the storage has no locks; returns False where another has the lock."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _BUSY
    return True
