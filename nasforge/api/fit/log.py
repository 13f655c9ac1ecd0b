"""`fit.jsonl`: what a fit was asked for, what it decided and why, and the seconds that it has used.

One JSON object a line, on the disk before it is acted on. A fit that is continued reads its decisions back and never
takes them again. Every line has `at` (seconds since the epoch) and `used` (seconds of work so far, without the time
between two sessions).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from nasforge import registry
from nasforge.core.architecture import digest
from nasforge.core.checks import cut
from nasforge.core.errors import ConfigError, DataError, JournalError, NasforgeError, one_line
from nasforge.core.layout import FIT, JOURNAL
from nasforge.core.locks import Lock
from nasforge.core.metrics import short_name
from nasforge.core.ranges import is_number, is_whole
from nasforge.core.say import Say
from nasforge.experiment.journal import dumps, loads, unwritable

SCHEMA = 1
NO_PRETRAINED = "none"
"""The value of `Request.pretrained` with which no cache is looked into."""
_UNTRAINED = {"begun", "inspected", "decision", "prepared", "phase"}
"""Kinds of lines that a fit has before anything is trained."""
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Request:
    """Settings of a fit except its time; a resumed fit must have the same ones."""

    source: str
    labels: str | None
    image_column: str | None
    label_column: str | None
    group_column: str | None
    constraints: tuple[str, ...]
    objective: str | None
    preset: str
    seed: int
    device: str
    strict: bool
    weights: str | None = None
    backbone: str | None = None
    pretrained: str | None = None
    plan: Mapping[str, Any] | None = None


def finished_of(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line of a fit's result; None where it has none, or has made another choice since."""
    kinds = [entry["kind"] for entry in entries]
    if "finished" not in kinds:
        return None
    place = len(kinds) - 1 - kinds[::-1].index("finished")
    return None if "chosen" in kinds[place:] else entries[place]


def winner_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row of the winner in a fit's result."""
    winner: Mapping[str, Any] = next(row for row in content["rows"] if row["name"] == content["winner"])
    return winner


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Read what the lines of a fit's log hold.

    Args:
        folder: of the fit.

    Raises:
        JournalError: a line lacks a key, or has a value of another form.
    """
    try:
        yield
    except (AttributeError, LookupError, OverflowError, StopIteration, TypeError, ValueError) as error:
        raise JournalError(
            f"{folder / FIT}: cannot be read: a line was changed ({type(error).__name__}: {one_line(error)}). Restore "
            "the file from a backup",
            kind="unreadable",
        ) from None


def stamp_of(source: str, labels: str | None, folder: Path | None = None) -> str:
    """Hash of the names, sizes and times of change of a folder's images or of a file; empty for a registered name.

    Args:
        source: folder, file or name of the data.
        labels: the table of labels.
        folder: of a fit. Where an earlier version began it, whose stamp is of all files in `source`, and these are
            the same, the hash is that stamp.

    Raises:
        DataError: a folder or file cannot be read.
    """
    from nasforge.data.image_folder import images_below  # numpy and Pillow, which a look at the log does without

    stamp = _stamp(source, labels, images_below)
    if folder is not None and (earlier := _first_stamp(folder)) not in (None, stamp):
        with contextlib.suppress(OSError):
            if earlier == _stamp(source, labels, _files_below):
                return str(earlier)
    return stamp


def _stamp(source: str, labels: str | None, below: Callable[[Path], Sequence[Path]]) -> str:
    seen = []
    named = source in registry.names("data")  # a folder of this name is not its data
    for place in map(Path, filter(None, (None if named else source, labels))):
        try:
            files = below(place) if place.is_dir() else [place] if place.is_file() else []
        except OSError as error:
            raise DataError(
                f"{place} cannot be read ({error.strerror}); allow to read it, or name another one", kind="unreadable"
            ) from None
        for file in files:
            with contextlib.suppress(OSError):  # it has just been removed, or is a link to nothing
                status = file.stat()
                seen.append([str(file), status.st_size, status.st_mtime_ns])
    return digest(seen) if seen else ""


def _files_below(folder: Path) -> list[Path]:
    """Return all files in a folder, but not those behind links to folders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _first_stamp(folder: Path) -> str | None:
    """Return the stamp of the data that a fit began with; None where there is no log."""
    try:
        stamp: str | None = entries_of(folder)[0]["inputs"].get("data_stamp")
    except (JournalError, OSError, IndexError, KeyError, AttributeError):  # opening the log names what is wrong
        return None
    return stamp


def entries_of(folder: Path) -> list[dict[str, Any]]:
    """Return all whole lines of a fit's log. A line that a kill left unfinished is left out.

    Raises:
        JournalError: there is no log, or a line is corrupt.
    """
    path = folder / FIT
    entries = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                entries.append(_entry(path, number, line))
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}", kind="unreadable") from None
    return entries


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) and _is_text(row.get("name")) for row in value)


def _is_outcome(value: Any) -> bool:
    """Return whether a value is a fit's result: rows, and the name of the one that has won."""
    return (
        _is_mapping(value)
        and _are_rows(value.get("rows"))
        and any(row["name"] == value.get("winner") for row in value["rows"])
    )


def _are_inputs(value: Any) -> bool:
    return _is_mapping(value) and _is_text(value.get("source"))


def _is_inside(value: Any) -> bool:
    """Return whether a place stays in the fit's folder."""
    return isinstance(value, str) and not PurePath(value).is_absolute() and ".." not in PurePath(value).parts


_EVERY = {"kind": _is_text, "at": _is_finite, "used": _is_finite}
_FIELDS: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "begun": {"inputs": _are_inputs},
    "inspected": {"inspection": _is_mapping},
    "decision": {"name": _is_text, "value": lambda value: True},
    "yardsticks": {"rows": _are_rows},
    "probed": {"backbone": _is_text, "said": _is_text},
    "searched": {"until": _is_finite},
    "chosen": {"until": _is_finite, "winner": _is_text},
    "last_training": {"network": _is_text, "until": _is_finite, "deadline": _is_finite},
    "trained": {"folder": _is_inside, "network": _is_text, "epochs": is_whole},
    "tuning": {"network": _is_text, "epochs": is_whole},
    "opened": {"what": _is_text},
    "tested": {"what": _is_text, "figures": _is_mapping},
    "curve": {"time": _is_finite},
    "finished": {"content": _is_outcome},
}
"""Kind of a line -> its fields that are read without a further look, and what they must be."""


def _entry(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        content = loads(line.decode())
        if not isinstance(content, dict):
            raise ValueError("no object")
        for fields in (_EVERY, _FIELDS.get(str(content.get("kind")), {})):
            for name, fits in fields.items():
                if not fits(content[name]):
                    raise ValueError(f"{name} is {content[name]!r}")
    except (ValueError, KeyError, OverflowError, RecursionError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise JournalError(
            f"{path}:{number}: this line is corrupt ({cut(problem)}). Restore the file from a backup, or cut it off "
            "before this line to continue from there",
            kind="unreadable",
        ) from None
    if number == 1 and (content["kind"] != "begun" or content.get("schema") != SCHEMA):
        raise JournalError(
            f"{path}: not a log of schema {SCHEMA}. Use the NASForge that wrote it, or another --name", kind="changed"
        )
    return content


class FitLog:
    """The open log of a fit: locked, and with the one wall clock of the platform.

    Attributes:
        folder: of the fit.
        entries: all lines, the first one says what was asked for.
        resumed: whether the log was there before.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any], began: float) -> None:
        """Begin a fit, or open the one in `folder` to continue it.

        Args:
            folder: of the fit.
            inputs: what is asked for: data and options, JSON-able. A continued fit must have the same; one in which
                nothing was trained starts again where they differ.
            began: `time.monotonic()` of when this session began.

        Raises:
            ConfigError: the fit in the folder was asked for with other data or options.
            JournalError: another process works on it, it cannot be written, or a line is corrupt.
        """
        self.folder = folder
        self._began = began
        path = folder / FIT
        try:
            if not path.exists() and (folder / JOURNAL).exists():
                raise ConfigError(
                    f"{folder}: holds another experiment. Give the fit another --name", kind="conflict", key="name"
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except BlockingIOError:
            raise JournalError(
                f"{folder}: another process works on this fit. Wait for it, stop it, or use another --name",
                kind="busy",
                key="name",
            ) from None
        except OSError as error:
            raise unwritable(folder, error) from None
        try:
            self.entries = entries_of(folder)
            self._cut_off(path, len(self.entries))
            asked = json.loads(dumps(dict(inputs)))
            kinds = {entry["kind"] for entry in self.entries}
            mended = bool(self.entries) and kinds <= _UNTRAINED and bool(_differing(self.entries[0]["inputs"], asked))
            if mended or "refused" in kinds:  # nothing was trained: the user corrects a mistake, or gives more time
                os.ftruncate(self._file, 0)
                self.entries = []
            self.resumed = bool(self.entries)
            self._earlier = float(self.entries[-1]["used"]) if self.entries else 0.0
            if self.resumed:
                _check_same(folder, self.entries[0]["inputs"], asked)
            else:
                self.write("begun", schema=SCHEMA, inputs=dict(inputs))
        except BaseException:
            self.close()
            raise

    def _cut_off(self, path: Path, whole: int) -> None:
        """Remove the line that a killed process left unfinished."""
        content = path.read_bytes()
        length = sum(len(line) for line in content.splitlines(keepends=True)[:whole])
        if length < len(content):
            os.ftruncate(self._file, length)

    @property
    def used(self) -> float:
        """Seconds of work so far, those of earlier sessions among them."""
        return self._earlier + time.monotonic() - self._began

    def write(self, kind: str, **content: Any) -> dict[str, Any]:
        """Append a line and wait until it is on the disk.

        Raises:
            JournalError: the disk is full or gone.
        """
        entry = {"kind": kind, **content, "at": round(time.time(), 3), "used": round(self.used, 3)}
        line = (dumps(entry) + "\n").encode()
        before = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise JournalError(
                f"{self.folder / FIT}: cannot be written: {error.strerror}. Nothing is lost: make room, then run the "
                "same command to continue",
                kind="failed",
            ) from None
        written: dict[str, Any] = loads(line.decode())
        self.entries.append(written)
        return written

    def last(self, kind: str, **values: Any) -> dict[str, Any] | None:
        """Return the last line of a kind with these values."""
        fits = (
            e for e in reversed(self.entries) if e["kind"] == kind and all(e.get(k) == v for k, v in values.items())
        )
        return next(fits, None)

    def decide(self, name: str, make: Callable[[], tuple[_Value, str]], say: Say) -> _Value:
        """Return a decision with its reason: read back where it was taken before, else taken, written and printed.

        Args:
            name: of what is decided.
            make: gives the value, JSON-able, and the reason in words.
            say: takes a line for the user.
        """
        entry = self.last("decision", name=name)
        if entry is None:
            value, reason = make()
            entry = self.write("decision", name=name, value=value, reason=reason)
            text = short_name(str(value)) if name == "metric" else shown(value)
            plain = "" if isinstance(value, Mapping) else f"{text}, "
            say(f"{name.replace('_', ' ')}: {plain}{reason}")
        return entry["value"]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release the log."""
        os.close(self._file)
        self._lock.close()

    def __enter__(self) -> FitLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        refused = kind is not None and issubclass(kind, NasforgeError)
        if refused and all(entry["kind"] == "begun" for entry in self.entries):  # the data cannot be used
            (self.folder / FIT).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files lie there
                self.folder.rmdir()
        self.close()


def shown(value: Any) -> str:
    """Return a decided value as a line of the screen has it."""
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the inputs that are not the same; one that an older log lacks is None there."""
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def _setting_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a fit with other data or options."""
    differing = _differing(before, now)
    for stamp, what in (("data_stamp", "the images or labels"), ("weights_stamp", "the pretrained weights")):
        if differing == [stamp]:
            raise ConfigError(
                f"{folder}: {what} have changed since this fit began. Restore them to continue it, or use another "
                "--name",
                kind="changed",
                key="name",
            )
    if differing:
        changes = ", ".join(
            f"{key.replace('_', ' ')} {_setting_text(now.get(key))} (was {_setting_text(before.get(key))})"
            for key in differing
        )
        raise ConfigError(
            f"{folder}: this fit began with other settings: {cut(changes)}. Repeat its command to continue it, or use "
            "another --name",
            kind="changed",
            key="name",
        )
