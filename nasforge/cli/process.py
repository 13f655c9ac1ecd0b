"""Streams and working folder of the process of a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nasforge.core.errors import ConfigError


def _is_deleted() -> bool:
    """Return whether the working folder has been deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


_DELETED = _is_deleted()
"""Whether the working folder was deleted before this process began."""
if _DELETED:
    os.chdir(os.sep)  # torch's libraries would end the process while they load


class Stream:
    """A text stream that survives a full disk and a reader that has gone: a search must not die of its own messages.

    Attributes:
        error: the first one met; None while all goes well.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if (stream.encoding or "").lower().replace("-", "") != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # some of our signs are not in every encoding
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        if self.error is None:
            with self._noting():
                self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write, or drop the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        if self.error is None:
            with self._noting():
                self._stream.flush()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            with suppress(OSError, ValueError):  # Python flushes once more when it exits, and must succeed then
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_streams() -> Iterator[Stream]:
    """Put `Stream`s in the place of stdout and stderr; yields stdout's."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, log = (Stream(stream or open(os.devnull, "w")) for stream in before)  # noqa: SIM115, PTH123
    sys.stdout, sys.stderr = out, log
    try:
        yield out
    finally:
        out.flush()
        log.flush()
        sys.stdout, sys.stderr = before


def _fill_closed_descriptors() -> None:
    """Open /dev/null as stdin, stdout or stderr that is closed; else the next file, a journal, would take its place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest descriptor that is free


def check_working_folder() -> None:
    """Raises ConfigError when the working folder has been deleted."""
    if _DELETED or _is_deleted():
        raise ConfigError(
            "the working folder has been deleted. Change to a folder that exists, then try again", kind="missing"
        )
