"""Errors that users can meet. Each message says where, what was got, what is allowed and what to do."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")
"""Codes for colours and the cursor of a terminal, and other unreadable characters."""


KINDS = {
    "invalid": "Nothing more is known than the message says; the default.",
    "range": "A number is outside the allowed limits.",
    "type": "A value has the wrong type: a text where a number belongs.",
    "unknown": "A name is not among the known ones.",
    "missing": "A file, a key, a column, an option, a package or a program is absent.",
    "duplicate": "Something is named, set or decided twice.",
    "conflict": "Two settings exclude each other.",
    "unsupported": "The combination is valid, but not implemented.",
    "removed": "An older release had this setting or interface.",
    "unreadable": "A file is broken or has a foreign format.",
    "changed": "Files or settings differ from those recorded earlier.",
    "mismatch": "A copy or an export does not agree with its original, or weights do not fit their network.",
    "untrusted": "The user has not agreed to run this code.",
    "busy": "Another process holds it.",
    "failed": "Another program or library reported an error.",
    "empty": "There is nothing to work with: no images, no finished trials.",
}
"""Machine-readable kinds of errors and what each means."""


class NasforgeError(Exception):
    """Parent of all errors that users can fix; the command line prints them without a traceback.

    Attributes:
        kind: what is wrong, one of `KINDS`.
        key: the setting, option, file key or metric concerned (`train.batch_size`); None where there is none.
    """

    def __init__(self, message: str, *, kind: str = "invalid", key: str | None = None) -> None:
        self.kind = kind
        self.key = key
        super().__init__(message)


def described(error: BaseException) -> str:
    """Return an exception and the place where it was raised, for a message: `KeyError: 'foo' (mine.py:33)`."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({PurePath(place.filename).name}:{place.lineno})"


class SpaceError(NasforgeError):
    """A search space is malformed, or a value lies outside its domain."""


class ConfigError(NasforgeError):
    """A configuration has one or more problems.

    Attributes:
        problems: all of them; `kind` and `key` are those of the first.
    """

    def __init__(self, problems: Sequence[Problem] | str, *, kind: str = "invalid", key: str | None = None) -> None:
        """Make the error of several problems, or of one message; `kind` and `key` belong to that message."""
        self.problems: tuple[Problem, ...]
        if isinstance(problems, str):
            self.problems = (Problem(problems, kind=kind),)
        else:
            self.problems = tuple(problems)
            kind, key = self.problems[0].kind, self.problems[0].key
        super().__init__("\n".join(str(problem) for problem in self.problems), kind=kind, key=key)


class TrustError(ConfigError):
    """A file that may be somebody else's names code, and the user has not agreed to run it."""


class RecipeError(ConfigError):
    """The recipe is invalid, or does not fit this network or these images; another point of the space may."""


class JournalError(NasforgeError):
    """A journal cannot be read, is locked by another driver, or does not belong to this configuration."""


class EventError(NasforgeError):
    """A plug-in or a journal has an invalid event: a text instead of a number, a negative charge."""


class BuildError(NasforgeError):
    """A builder could not make a network from an architecture, or did not read a decision."""


class DataError(NasforgeError):
    """A data set is missing, malformed or unreadable."""


class SearchError(NasforgeError):
    """The search cannot continue: nothing feasible, workers that fail at once, a metric that nothing reports."""


class DeviceLost(SearchError):
    """A GPU or its driver has failed, and this process cannot compute on it any more; a new process may."""


class ExportError(NasforgeError):
    """An exported model could not be written, or differs from the network it was made from."""


class TrackingError(NasforgeError):
    """A tracking server refused or could not be reached."""


class StopNow(KeyboardInterrupt):
    """The user or the scheduler stopped the search; the same call resumes it."""


class TimeOver(StopNow):
    """The caller's time limit of a search is reached; it ends as planned."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a configuration, with its place.

    Attributes:
        message: what is wrong and what to do.
        file: the file that holds it; None for a call or the command line.
        line: its line in that file, from 1; None where it is not known.
        key: the setting, printed before a message that does not begin with it; None if the message names it.
        kind: one of `KINDS`.
    """

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None
    kind: str = "invalid"

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        form = r"(?:\.|(?: '[^']*')?: )".join(map(re.escape, (self.key or "").split(".")))
        named = self.key and re.match(rf"{form}\b", self.message)  # `seed must be ...`, `budget: trials must be ...`
        return ": ".join(part for part in (place, None if named else self.key, self.message) if part)


def readable(text: str) -> str:
    """Return a text without codes by which a terminal does something instead of showing it."""
    return _CONTROLS.sub("", text)


def one_line(error: BaseException | str, most: int = 300) -> str:
    """Return a library's error on one line of at most `most` characters, without codes for colours."""
    text = " ".join(readable(str(error)).split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message for an unknown name: the closest names, then all (at most twenty).

    Example:
        >>> did_you_mean("evolutoin", ["evolution", "random"])
        "did you mean 'evolution'? Known: evolution, random"
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(got, names, n=2)
    hint = f"did you mean {' or '.join(repr(name) for name in close)}? " if close else ""
    rest = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint}Known: {', '.join(names[:20]) if names else '(none)'}{rest}"
