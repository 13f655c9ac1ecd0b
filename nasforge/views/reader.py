"""A journal that is followed while somebody else writes it: read from the last byte on, with the state kept."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nasforge.core.errors import JournalError
from nasforge.core.events import (
    KILL,
    Ended,
    Event,
    Extended,
    Header,
    Interrupted,
    Moved,
    Reported,
    Started,
    TestOpened,
    Told,
)
from nasforge.core.layout import JOURNAL, LOCK
from nasforge.core.locks import is_locked
from nasforge.experiment.journal import parse, without_collection
from nasforge.experiment.state import State
from nasforge.views.tables import budget_used

_TAIL = 256
_LINES = 64
"""Lines between two looks at the clock."""
_MANY = 5_000
"""Number of new lines above which their objects are frozen: each garbage collection would look through them."""
_RESUMING = (Extended, Moved, Ended, TestOpened)


@dataclass
class Times:
    """Times of events in seconds since the epoch (UTC). Journals of schema 1 have none.

    Attributes:
        began: time of the first line; None where it has none.
        latest: time of the latest line.
        active: seconds in which the search ran, without the time between two sessions and without retraining.
        attempts: trial -> start and end of each of its attempts; an attempt that runs ends with its last report.
    """

    began: float | None = None
    latest: float | None = None
    active: float = 0.0
    attempts: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def take(self, event: Event, at: float) -> None:
        """Take in the time of one event."""
        if self.began is None:
            self.began = at
        latest, self.latest = self.latest, at
        if isinstance(event, Started):
            self.attempts.setdefault(event.number, []).append((at, at))
            if event.attempt > 1:
                return  # the search was resumed
        elif isinstance(event, Interrupted) and event.cause == KILL:
            return  # the search was resumed
        elif isinstance(event, (Reported, Told, Interrupted)):
            spans = self.attempts.get(event.number)
            if spans:
                spans[-1] = (spans[-1][0], at)
        elif isinstance(event, _RESUMING):
            return
        if latest is not None and at > latest:
            self.active += at - latest


def standing_of(folder: Path, state: State | None) -> str:
    """Return `running`; else `finished`, where nothing is left to run or the result was tested; else `stopped`."""
    if is_locked(folder / LOCK):
        return "running"
    return "finished" if state is not None and (state.done or state.tests) else "stopped"


class Reader:
    """Follows the journal of one experiment, without a lock.

    `refresh` reads what was appended since the last call. A last line that is not whole yet is left for the next call.
    A file that was replaced, shortened or rewritten is read again from its beginning.

    Attributes:
        folder: of the experiment.
        state: the folded events; None before the header is read.
        times: when they happened.
        header: the first event; None before it is read.
        alphas: shared training -> (step, decision -> one number per option) for each report that has alphas.
        behind: whether the last `refresh` stopped at its time limit, with lines left.
    """

    def __init__(self, folder: Path) -> None:
        """Follow the experiment in `folder`; nothing is read yet."""
        self.folder = folder
        self._generation = 0
        self._begin()

    def _begin(self) -> None:
        self.state: State | None = None
        self.header: Header | None = None
        self.times = Times()
        self.alphas: dict[int, list[tuple[int, Mapping[str, tuple[float, ...]]]]] = {}
        self.behind = False
        self._generation += 1
        self._file: tuple[int, int] | None = None
        self._offset, self._line, self._size = 0, 0, 0
        self._tail = b""

    @property
    def version(self) -> str:
        """A text that changes with every line that is read."""
        return f"{self._generation}-{self._offset}"

    @property
    def progress(self) -> float:
        """Share of the file that is read."""
        return self._offset / self._size if self._size else 1.0

    @property
    def running(self) -> bool:
        """True if a driver on this machine, or on a shared folder with locks, runs the experiment now."""
        return is_locked(self.folder / LOCK)

    @property
    def standing(self) -> str:
        """`running`; else `finished`, where nothing is left to run or the result was tested; else `stopped`."""
        return standing_of(self.folder, self.state)

    @property
    def elapsed(self) -> float | None:
        """Seconds in which the search ran until now; None where the journal has no times."""
        active, latest = self.times.active or None, self.times.latest
        retrained = self.state is not None and bool(self.state.tests)
        if active is None or latest is None or retrained or not self.running:
            return active
        return active + max(0.0, time.time() - latest)

    @property
    def left(self) -> float | None:
        """Seconds that a running search still takes, from the share of its budget that is used; None if unknown."""
        used = None if self.state is None else budget_used(self.state)
        elapsed = self.elapsed
        if not elapsed or not used or used >= 1 or not self.running:
            return None
        return elapsed * (1 - used) / used

    def refresh(self, seconds: float = math.inf) -> bool:
        """Read what is new.

        Args:
            seconds: stop after about so long, with `behind` set where lines are left.

        Returns:
            Whether the state has changed.

        Raises:
            JournalError: no journal, an empty one, another schema version, or a corrupt line. The state holds all that
                was read before. A later call continues, if the file was repaired.
        """
        path = self.folder / JOURNAL
        before = self.version
        try:
            with path.open("rb") as file:
                self._check_same(file)
                with without_collection():
                    begin = self._line
                    self._take(file, path, time.monotonic() + seconds)
                    if self._line - begin > _MANY:
                        gc.freeze()  # all of it stays, so no collection needs to look through it
        except FileNotFoundError:
            self._begin()
            raise JournalError(f"{self.folder}: no experiment here ({path.name} is missing)", kind="missing") from None
        except OSError as error:
            raise JournalError(f"{path}: cannot be read: {error.strerror}", kind="unreadable") from None
        if self.state is None:
            raise JournalError(f"{self.folder}: the journal is empty, so the search has not started", kind="empty")
        return self.version != before

    def _check_same(self, file: IO[bytes]) -> None:
        """Start again if this is another file than before, or its content has changed."""
        status = os.fstat(file.fileno())
        self._size = status.st_size
        same = self._file in (None, (status.st_dev, status.st_ino)) and status.st_size >= self._offset
        if same and self._tail:
            file.seek(self._offset - len(self._tail))
            same = file.read(len(self._tail)) == self._tail
        if not same:
            self._begin()
        self._file, self._size = (status.st_dev, status.st_ino), status.st_size

    def _take(self, file: IO[bytes], path: Path, end: float) -> None:
        file.seek(self._offset)
        self.behind = False
        last = b""
        try:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                event, at = parse(path, self._line + 1, line)
                if isinstance(event, Header):
                    self.state, self.header = State(event, self.folder), event
                else:
                    assert self.state is not None  # noqa: S101  (`parse` refuses a first line that is no header)
                    self.state.take(event, self._line + 1)
                if at is not None:
                    self.times.take(event, at)
                if isinstance(event, Reported) and event.alphas:
                    self.alphas.setdefault(event.number, []).append((event.step, event.alphas))
                self._line += 1
                self._offset += len(line)
                last = line
                if self._line % _LINES == 0 and time.monotonic() > end:
                    self.behind = True
                    return
        finally:
            self._tail = last[-_TAIL:] or self._tail
