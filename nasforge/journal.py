"""The append-only file that is the truth of an experiment: one JSON event a line, on disk before it is acted on."""

from __future__ import annotations

import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

from nasforge.core.errors import JournalError
from nasforge.core.events import SCHEMA, Event, Header, event_from_json, event_to_json

JOURNAL = "journal.jsonl"
LOCK = "lock"


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


def dumps(content: Any) -> str:
    """JSON on one line that `loads` reads back equal, NaN and infinities included."""
    try:
        return json.dumps(_encode(content), allow_nan=False, separators=(",", ":"))
    except TypeError as error:
        raise JournalError(
            f"cannot be written as JSON: {error}; metrics and decisions are plain numbers and texts"
        ) from None


def loads(text: str) -> Any:
    """The inverse of `dumps`."""
    return json.loads(text, object_hook=_decode)


def experiments_in(folder: Path) -> list[Path]:
    """The folders of the experiments that lie in `folder`, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{JOURNAL}"))


def campaigns_in(folder: Path) -> list[Path]:
    """The folders of the campaigns that lie in `folder`, each with its experiments in it, by name."""
    return sorted({path.parent.parent for path in folder.glob(f"*/*/{JOURNAL}")})


def read_events(folder: Path) -> list[Event]:
    """All whole events of an experiment's journal, without a lock: for views. A torn last line is left out.

    Raises:
        JournalError: no journal, another schema version, or a corrupt line (with its number).
    """
    events, _ = _parse(folder / JOURNAL)
    if not events:
        raise JournalError(f"{folder}: the journal is empty; the experiment has not begun")
    return events


def _parse(path: Path) -> tuple[list[Event], int]:
    """The events, and the number of bytes that whole lines take."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise JournalError(f"{path.parent}: no experiment here ({path.name} is missing)") from None
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from None
    whole = content.rfind(b"\n") + 1
    events: list[Event] = []
    for index, line in enumerate(content[:whole].split(b"\n")[:-1]):
        try:
            event = event_from_json(loads(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if index == 0:
                _check_schema(path, line)
            raise JournalError(
                f"{path}:{index + 1}: this line is corrupt ({type(error).__name__}: {error}). Restore the file from a "
                "backup, or cut it off before this line to continue from there"
            ) from None
        if index == 0:
            _check_schema(path, line)
            if not isinstance(event, Header):
                raise JournalError(f"{path}:1: the first line must be the header, got '{event.kind}'")
        elif isinstance(event, Header):
            raise JournalError(f"{path}:{index + 1}: a second header; two journals were joined")
        events.append(event)
    return events, whole


def _check_schema(path: Path, line: bytes) -> None:
    try:
        schema = loads(line.decode())["schema"]
    except (ValueError, KeyError, TypeError):
        return
    if schema != SCHEMA:
        raise JournalError(
            f"{path}: written with schema version {schema}, this NASForge reads version {SCHEMA}. Use the NASForge "
            "that wrote it (its version is in the first line), or start a new experiment with another --name"
        )


class Journal:
    """The open journal of a driver: locked, repaired, ready to append.

    Attributes:
        events: what was in it when it was opened.
    """

    def __init__(self, folder: Path, *, sync: bool = True) -> None:
        """Open or create.

        Args:
            folder: of the experiment.
            sync: whether each event is waited for until it is on the disk. Without, a kill of the process still loses
                nothing, a crash of the machine may lose the last seconds.

        Raises:
            JournalError: another driver holds the lock, the folder cannot be written, or a line is corrupt.
        """
        self.path = folder / JOURNAL
        self._sync = sync
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise JournalError(f"{folder}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = (folder / LOCK).read_text().strip()
            os.close(self._lock)
            raise JournalError(
                f"{folder}: another driver is running this experiment ({holder}). Wait for it, stop it, or "
                "use another --name"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        try:
            self.events, self._size = _parse(self.path) if self.path.exists() else ([], 0)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(self._file, self._size)
            if sync:
                sync_folder(folder)
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, event: Event) -> Event:
        """Write one event and wait until it is on the disk; returns what a reader will find.

        Raises:
            JournalError: the disk is full or gone; the file then ends with the last whole event.
        """
        text = dumps(event_to_json(event))
        line = (text + "\n").encode()
        try:
            if os.lseek(self._file, 0, os.SEEK_END) != self._size:
                os.ftruncate(self._file, self._size)
            written = os.pwrite(self._file, line, self._size)
            if written != len(line):
                raise OSError(28, "no space left on device")
            if self._sync:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise JournalError(
                f"{self.path}: cannot be written: {error.strerror}. Everything up to here is safe: make room, then run "
                "the same command to continue"
            ) from None
        self._size += len(line)
        return event_from_json(loads(text))

    def close(self) -> None:
        """Let another driver in."""
        if not self._sync:
            os.fsync(self._file)
        os.close(self._file)
        os.close(self._lock)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries, or a file's content, are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
