"""Position of the delivery in an experiment's journal: a reader of new lines, and `tracking.json` with the ids."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasforge.core.errors import JournalError, TrackingError
from nasforge.core.events import Event, Header
from nasforge.core.layout import FIT, JOURNAL
from nasforge.core.locks import Lock
from nasforge.core.ranges import Range
from nasforge.core.tracking_uri import NO_TRACKING, admit_store, chosen_uri, tracking_uri
from nasforge.core.uri import without_password, without_secrets
from nasforge.experiment.journal import fit_of, parse, read_header, search_name

IDS = "tracking.json"


class JournalFollower:
    """Reads a journal that another thread or process may be writing, whole lines only, each once."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        self._offset = 0
        self._lines = 0

    def total(self) -> int:
        """Whole lines in the file; 0 where it cannot be read, or not yet."""
        try:
            return self._path.read_bytes().count(b"\n")
        except OSError:
            return 0

    def header(self) -> Header | None:
        """Return the first event, None where there is none yet."""
        try:
            with self._path.open("rb") as file:
                event = parse(self._path, 1, file.readline()).event
        except (OSError, JournalError):
            return None
        return event if isinstance(event, Header) else None

    def fingerprint(self) -> str:
        """Digest of the first line: another search of the same name has another one."""
        with self._path.open("rb") as file:
            return hashlib.sha256(file.readline()).hexdigest()[:16]

    def read(self, at_most: int) -> list[Event]:
        """Return the next events; empty at the end.

        Raises:
            JournalError: a corrupt line.
        """
        events: list[Event] = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n") or len(events) == at_most:
                    break
                try:
                    events.append(parse(self._path, self._lines + 1, line).event)
                except JournalError:
                    if events:
                        break  # first those before it
                    raise
                self._offset += len(line)
                self._lines += 1
        return events


def source_of(folder: Path) -> str:
    """Return the images that a fit was asked for; empty for a search of its own, whose journal names them."""
    fit = fit_of(folder)
    if fit is None:
        return ""
    try:
        with (fit / FIT).open("rb") as file:
            return str(json.loads(file.readline())["inputs"]["source"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return ""


def destination(folder: Path, uri: str | None = None) -> str | None:
    """Return the URI that an experiment is delivered to; None for the default store.

    Args:
        folder: the experiment's folder.
        uri: from the user; None for where the search was tracked, or else what MLFLOW_TRACKING_URI says.

    Raises:
        JournalError: no experiment there, or a corrupt journal.
        TrackingError: MLflow cannot keep runs at that URI, or the search was not tracked and no URI is given.
        TrustError: the journal names the URI, and the user has not agreed to it.
    """
    if uri == NO_TRACKING:
        raise _tracking_is_off(folder)
    chosen = chosen_uri(uri) if uri is not None else read_header(folder).config.get("tracking_uri")
    if uri is None and chosen == NO_TRACKING:
        chosen = chosen_uri(None) or NO_TRACKING
    elif uri is None:
        admit_store(chosen, folder.parent, f"--tracking-uri {without_secrets(str(chosen))}")
    if chosen == NO_TRACKING:
        raise TrackingError(
            f"'{search_name(folder)}' was searched without tracking; say where to with --tracking-uri",
            kind="missing",
            key="tracking_uri",
        )
    return chosen


def destination_of_comparison(folder: Path, uri: str | None = None) -> str | None:
    """Return the URI that a comparison is delivered to; None for the default store.

    Args:
        folder: of the comparison, which has no journal that names a store.
        uri: from the user; None for the store that has it, or else what MLFLOW_TRACKING_URI says.

    Raises:
        TrackingError: MLflow cannot keep runs at that URI, or the user wants no tracking.
        TrustError: a file in the folder names the URI, and the user has not agreed to it.
    """
    stores = list(read_ids(folder)["stores"])
    if uri is None and stores:
        latest = str(stores[-1])
        if latest == "default":
            return None
        admit_store(latest, folder.parent, f"--tracking-uri {latest}")
        return latest
    chosen = chosen_uri(uri)
    if chosen == NO_TRACKING:
        raise _tracking_is_off(folder)
    return chosen


def _tracking_is_off(folder: Path) -> TrackingError:
    return TrackingError(
        f"'{search_name(folder)}': tracking is off. Name a store: --tracking-uri URI",
        kind="missing",
        key="tracking_uri",
    )


_LENGTHS = ("delivered", "ended_at")
"""Keys of the ids that are lengths of the journal, in lines."""

FLAT, NESTED = "flat", "nested"
"""Layouts of a search in MLflow: runs side by side in an experiment of their own; trials under the search's run."""


def new_ids() -> dict[str, Any]:
    """Return the ids of a store that nothing was delivered to; the key names the search's run before it exists.

    `ended` is how the search ended, and `ended_at` the length of its journal then; 0 where no end is recorded.
    `latest_run_id` is the run that was made last.
    """
    runs = ("experiment_id", "parent_run_id", "latest_run_id")
    texts = ("status", "ended", "journal", "folder", "name", "model", "rows", "files")
    lengths = dict.fromkeys(_LENGTHS, 0)
    return {"key": uuid.uuid4().hex, "layout": FLAT, **dict.fromkeys((*runs, *texts), ""), "open": {}, **lengths}


def read_ids(folder: Path) -> dict[str, Any]:
    """Read what `write_ids` wrote: the ids of each store and the number of events delivered.

    Raises:
        TrackingError: the file is damaged.
    """
    advice = "Delete the file to deliver this experiment to MLflow once more, as new runs"
    try:
        content = json.loads((folder / IDS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"schema": 1, "stores": {}}
    except (OSError, ValueError, RecursionError) as error:
        raise TrackingError(f"{folder / IDS}: not readable as JSON ({error}). {advice}", kind="unreadable") from None
    if isinstance(content, dict) and content.get("schema") != 1:
        raise TrackingError(
            f"{folder / IDS}: written by another version of NASForge. {advice}", kind="unsupported", key="schema"
        )
    try:
        # Files of earlier versions name no layout; a search that they know keeps its place.
        stores = {name: {**new_ids(), "layout": NESTED, **store} for name, store in content["stores"].items()}
        whole = all(_is_whole(store) for store in stores.values())
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise TrackingError(
            f"{folder / IDS}: damaged, it does not hold ids of MLflow's runs. {advice}", kind="unreadable"
        )
    return {**content, "stores": stores}


def _is_whole(store: dict[str, Any]) -> bool:
    """Return whether the ids of one store have the types that `write_ids` gave them."""
    lengths = all(store[key] in Range(whole=True, least=0) for key in _LENGTHS)
    texts = all(isinstance(value, str) for key, value in store.items() if key not in (*_LENGTHS, "open"))
    runs = all(
        isinstance(run, list) and len(run) == 2 and isinstance(run[0], str) and isinstance(run[1], int)
        for run in store["open"].values()
    )
    return lengths and texts and runs


def ids_of(content: dict[str, Any], uri: str, runs_dir: Path) -> dict[str, Any]:
    """Return the ids of one store in what `read_ids` gives; new ones where nothing was delivered to it."""
    # The default store moves with its runs folder, so it is not named by its path.
    name = "default" if uri == tracking_uri(None, runs_dir) else without_password(uri)
    ids: dict[str, Any] = content["stores"].setdefault(name, new_ids())
    return ids


def is_copy(folder: Path, mine: dict[str, Any]) -> bool:
    """Return whether these ids are those of another experiment that `folder` was copied from and that still exists."""
    place = Path(mine["folder"])
    if not mine["folder"] or place == folder.absolute():
        return False
    try:
        if place.samefile(folder):
            return False
        return any(store["key"] == mine["key"] for store in read_ids(place)["stores"].values())
    except (OSError, TrackingError):
        return False


def is_delivered(folder: Path, uri: str | None) -> bool:
    """Return whether a store has all events of an experiment; `uri` None for `mlflow.db` in the runs folder.

    Raises:
        TrackingError: `tracking.json` is damaged.
    """
    mine = ids_of(read_ids(folder), tracking_uri(uri, folder.parent), folder.parent)
    return bool(mine["parent_run_id"]) and int(mine["delivered"]) >= JournalFollower(folder).total()


def write_ids(folder: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = folder / f"{IDS}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(folder / IDS)


def lock_delivery(folder: Path) -> Lock:
    """Keep a second process from delivering the same experiment; closing the lock ends it, so does a kill."""
    try:
        return Lock(folder / "tracking.lock")
    except BlockingIOError:
        raise TrackingError(
            f"another process delivers '{folder.name}' to MLflow already; wait for its end", kind="busy"
        ) from None


@contextmanager
def delivery_locked(folder: Path) -> Iterator[None]:
    """Keep other processes from delivering the same experiment while the block runs."""
    lock = lock_delivery(folder)
    try:
        yield
    finally:
        lock.close()


@contextmanager
def one_creator(database: Path | None) -> Iterator[None]:
    """Two processes that open a missing SQLite database at once break its migration."""
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
