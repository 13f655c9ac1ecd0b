"""The append-only file that is the truth of an experiment: one JSON event a line, on disk before it is acted on.

docs/reference/journal.md describes the format.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from nasforge.core import checks
from nasforge.core.errors import EventError, JournalError
from nasforge.core.events import SCHEMA, SCHEMAS, Event, Header, event_from_json, event_to_json, header_of
from nasforge.core.layout import ARTIFACTS, BEST, FINALISTS, FIT, JOURNAL, LOCK, SEARCH
from nasforge.core.locks import Lock

_WORK = (ARTIFACTS, BEST, FINALISTS)
"""Contents of an experiment's folder that no other journal may overwrite."""


class Line(NamedTuple):
    """A line of a journal.

    Attributes:
        event: what happened.
        at: when it was written, in seconds since the epoch (UTC); None in journals of schema 1.
    """

    event: Event
    at: float | None


def _encode(content: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have."""
    if isinstance(content, float) and not math.isfinite(content):
        return {"$float": repr(content)}
    if isinstance(content, dict):
        return {key: _encode(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_encode(value) for value in content]
    return content


def _decode(content: dict[str, Any]) -> Any:
    return float(content["$float"]) if content.keys() == {"$float"} else content


_plain = json.JSONDecoder()
_scan: Callable[[str, int], tuple[Any, int]] = vars(_plain)["scan_once"]
_with_floats = json.JSONDecoder(object_hook=_decode)


def dumps(content: Any) -> str:
    """Return JSON on one line that `loads` reads back equal, NaN and infinities included."""
    try:
        return json.dumps(_encode(content), allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise JournalError(
            f"cannot be written as JSON: {error}; use plain numbers and texts for metrics and decisions", kind="type"
        ) from None


def loads(text: str) -> Any:
    """Parse the JSON that `dumps` wrote."""
    if '"$float"' in text:  # a hook is called for every object, and almost no line has such a number
        return _with_floats.decode(text)
    try:
        content, end = _scan(text, 0)
    except StopIteration:
        end = -1
    return content if end == len(text) else _plain.decode(text)  # which allows space around it, or reports the error


def experiments_in(folder: Path) -> list[Path]:
    """Return the folders of the experiments in `folder`, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{JOURNAL}") if path.is_file())


def has_begun(folder: Path) -> bool:
    """Return whether an experiment's journal has its first line. A killed driver may leave an empty file."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            return next(_whole_lines(file), None) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # the reader reports why it cannot be read


def experiment_of(folder: Path) -> Path:
    """Return the folder of an experiment itself, or of the search in a fit's folder."""
    inner = folder / SEARCH
    return inner if (folder / FIT).is_file() and (inner / JOURNAL).is_file() else folder


def fit_of(folder: Path) -> Path | None:
    """Return the fit that holds an experiment as its search; None for a separate experiment."""
    return folder.parent if folder.name == SEARCH and (folder.parent / FIT).is_file() else None


def search_name(folder: Path) -> str:
    """Return the name of an experiment as `nasforge show` takes it: `FIT/search` for the search of a fit."""
    fit = fit_of(folder)
    return folder.name if fit is None else f"{fit.name}/{SEARCH}"


def fits_in(folder: Path, *, searching: bool = True) -> list[Path]:
    """Return the folders of the fits in `folder`, by name; with `searching` only those whose search has started."""
    fits = sorted(path.parent for path in folder.glob(f"*/{FIT}") if path.is_file())
    return [fit for fit in fits if not searching or (fit / SEARCH / JOURNAL).is_file()]


def unwritable(folder: Path, error: OSError) -> JournalError:
    """Return the error of a folder in which no journal can be opened."""
    reason = error.strerror or str(error)
    return JournalError(
        f"{folder}: cannot be written: {reason}. Give --runs-dir a folder that can be written, or make room",
        kind="failed",
        key="runs_dir",
    )


def corrupt(path: Path | str, line: int, problem: object) -> JournalError:
    """Return the error for a corrupt line of a file.

    Args:
        path: of the file.
        line: its number, from 1.
        problem: in words, or as the exception that it caused.
    """
    cause = problem
    if isinstance(problem, Exception) and not isinstance(problem, EventError):
        cause = f"{type(problem).__name__}: {problem}"
    return JournalError(
        f"{path}:{line}: this line is corrupt ({checks.cut(str(cause))}). Restore the file from a backup, or cut it "
        "off before this line to continue from there",
        kind="unreadable",
        key=problem.key if isinstance(problem, EventError) else None,
    )


def parse(path: Path, number: int, line: bytes) -> Line:
    """Parse the event on a line of a journal.

    Args:
        path: of the file, for messages.
        number: of the line, from 1; the first one is the header, and no other one.
        line: its content, with the end of the line.

    Raises:
        JournalError: the line is corrupt, or the header is of another schema version.
    """
    try:
        content = loads(line[:-1].decode())
        if number == 1:
            _check_schema(path, content)
        at = content.pop("at", None)
        event = checks.event(event_from_json(content))
        if at is not None:
            at = checks.finite(at, "at")
    except (JournalError, MemoryError):
        raise
    except Exception as error:  # a damaged file may hold anything
        raise corrupt(path, number, error) from None
    if (number == 1) != isinstance(event, Header):
        if number == 1:
            raise JournalError(
                f"{path}:1: the first line must be the header, got '{event.kind}'. Restore the file from a backup",
                kind="unreadable",
            )
        raise JournalError(
            f"{path}:{number}: a second header: two journals were joined. Restore the file from a backup",
            kind="unreadable",
        )
    return Line(event, at)


def _check_schema(path: Path, content: dict[str, Any]) -> None:
    """Refuse a header of an unsupported version: raises JournalError."""
    schema = content.get("schema", SCHEMA)
    if type(schema) is int and schema not in SCHEMAS:
        raise JournalError(
            f"{path}: written with schema version {schema}, this NASForge reads versions "
            f"{', '.join(map(str, SCHEMAS))}. Use the NASForge that wrote it (its version is in the first line), "
            "or start a new experiment with another --name",
            kind="unsupported",
        )


def campaigns_in(folder: Path) -> list[Path]:
    """Return the folders of the campaigns in `folder`, which hold their experiments, by name."""
    campaigns = {path.parent.parent for path in folder.glob(f"*/*/{JOURNAL}")}
    return sorted(path for path in campaigns if not (path / FIT).is_file())


def read_events(folder: Path) -> list[Event]:
    """Return all whole events of an experiment's journal, without a lock: for views. A torn last line is left out.

    Raises:
        JournalError: no journal, another schema version, or a corrupt line (with its number).
    """
    return [line.event for line in read_lines(folder)]


def read_header(folder: Path) -> Header:
    """Return the first event of an experiment's journal without reading the others. Raises JournalError: no journal."""
    return header_of([next(lines_of(folder)).event])


def read_lines(folder: Path) -> list[Line]:
    """Return all whole lines of an experiment's journal, as `read_events`, with the times they were written at."""
    with without_collection():
        return list(lines_of(folder))


def lines_of(folder: Path) -> Iterator[Line]:
    """Yield the lines that `read_lines` returns: a view that keeps none of them needs half the time."""
    path = folder / JOURNAL
    try:
        with path.open("rb") as file:
            number = 0
            for number, line in enumerate(_whole_lines(file), 1):
                yield parse(path, number, line)
    except FileNotFoundError:
        near = Path("runs") / folder
        advice = f"{near} is one: give that path" if (near / JOURNAL).is_file() else "Check the folder's name"
        raise JournalError(f"{folder}: no experiment here: {path.name} is missing. {advice}", kind="missing") from None
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}", kind="unreadable") from None
    if not number:
        raise JournalError(f"{folder}: the journal is empty, so the search has not started. Run it first", kind="empty")


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file with their ends, without an unfinished last line."""
    return itertools.takewhile(lambda line: line.endswith(b"\n"), file)


@contextmanager
def without_collection() -> Iterator[None]:
    """Switch garbage collection off while many objects are made that all stay: it would look through them in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Journal:
    """The open journal of a driver: locked, repaired, ready to append.

    Attributes:
        events: what was in it when it was opened.
        schema: version of its format: a continued journal keeps the one that it began with.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        """Open or create.

        Args:
            folder: of the experiment.
            sync: whether each event is waited for until it is on the disk. Without, a kill of the process still loses
                nothing, a crash of the machine may lose the last seconds.

        Raises:
            JournalError: another driver holds the lock, the folder cannot be written, a line is corrupt, or the
                journal is gone while the experiment's other files are there.
        """
        self.path = folder / JOURNAL
        self._sync = sync
        self._process = os.getpid()
        self._broken = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(folder / LOCK)
        except BlockingIOError:
            holder = (folder / LOCK).read_text().strip()
            raise JournalError(
                f"{folder}: another driver is running this experiment ({holder}). Wait for it, stop it, or "
                "use another --name",
                kind="busy",
            ) from None
        except OSError as error:
            raise unwritable(folder, error) from None
        try:
            os.ftruncate(self._lock.handle, 0)
            os.pwrite(self._lock.handle, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        except OSError as error:
            self._lock.close()
            raise JournalError(
                f"{folder}: cannot be written: {error.strerror}. Make room, then run the same command", kind="failed"
            ) from None
        try:
            self._open()
        except OSError as error:
            self._lock.close()
            raise JournalError(f"{self.path}: cannot be opened: {error.strerror}", kind="unreadable") from None
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> None:
        """Read the file, and cut off the line that a killed driver left unfinished."""
        self.events: list[Event] = []
        self._size, length = 0, 0
        if self.path.exists():
            with self.path.open("rb") as file, without_collection():
                for number, line in enumerate(_whole_lines(file), 1):
                    self.events.append(parse(self.path, number, line).event)
                    self._size += len(line)
                length = os.fstat(file.fileno()).st_size
        self.schema = self.events[0].schema if self.events and isinstance(self.events[0], Header) else SCHEMA
        work = [name for name in _WORK if os.path.lexists(self.path.parent / name)]
        if not self.events and work:
            state = "is empty" if self.path.exists() else "is missing"
            raise JournalError(
                f"{self.path}: the journal {state}, but the folder holds {work[0]}/ of an experiment. Restore the "
                f"journal from a backup, move {self.path.parent} away, or use another --name",
                kind="missing",
            )
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if self._size < length:
                os.ftruncate(self._file, self._size)
            if self._sync:
                sync_folder(self.path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, event: Event) -> Event:
        """Write one event and wait until it is on the disk; returns what a reader will find.

        Raises:
            JournalError: the event is invalid, the disk is full or gone, or the file is not as this driver left it.
                Only an unfinished line of this driver is ever removed.
        """
        try:
            event = checks.event(event)
        except EventError as error:
            raise JournalError(
                f"{self.path}: '{event.kind}' cannot be written: {error}", kind=error.kind, key=error.key
            ) from None
        if isinstance(event, Header):
            self.schema = event.schema
        content = event_to_json(event, self.schema)
        if self.schema > 1:
            content["at"] = round(time.time(), 3)
        text = dumps(content)
        line = (text + "\n").encode()
        self._check_alone(self._size)
        written = 0
        try:
            written = os.pwrite(self._file, line, self._size)  # at the end, whatever the place: it was opened to append
            if written != len(line):
                raise OSError(28, "no space left on device")
            if self._sync:
                os.fsync(self._file)
        except OSError as error:
            self._check_alone(self._size + written)
            os.ftruncate(self._file, self._size)  # our own unfinished line, and nothing else
            raise JournalError(
                f"{self.path}: cannot be written: {error.strerror}. Everything up to here is saved. "
                "Make room, then run "
                "the same command to continue",
                kind="failed",
            ) from None
        self._size += len(line)
        self._check_alone(self._size)
        content = loads(text)
        content.pop("at", None)
        return event_from_json(content)

    def _check_alone(self, size: int) -> None:
        """Refuse to write into a file that is not as this driver left it, and from a forked process.

        Args:
            size: of the file, in bytes, if nobody else writes into it.
        """
        if os.getpid() != self._process:
            raise JournalError(
                f"{self.path}: a forked process may not write the journal; end it with os._exit, or start it by spawn",
                kind="busy",
            )
        if self._broken:
            raise JournalError(self._broken, kind="busy")
        ours = os.fstat(self._file)
        try:
            there: os.stat_result | None = self.path.stat()
        except OSError:
            there = None
        if there is None or ours.st_nlink < 1 or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            change = "it was replaced or deleted"
        elif ours.st_size != size:
            change = f"it has {ours.st_size:,} bytes where this driver left {size:,}"
        else:
            return
        self._broken = (
            f"{self.path}: somebody else writes here: {change}. This driver stops; whatever it has written stays. Make "
            "sure that one driver alone runs, then run the same command to continue"
        )
        raise JournalError(self._broken, kind="busy")

    def close(self) -> None:
        """Let another driver in."""
        if not self._sync:
            os.fsync(self._file)
        os.close(self._file)
        self._lock.close()


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries, or a file's content, are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
