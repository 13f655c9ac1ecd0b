"""Every error a user can meet. Each message says where, what was got, what is allowed and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]")
"""Codes for colours and the cursor of a terminal, and other characters that nobody can read."""


class NasforgeError(Exception):
    """Parent of all errors that are the user's to mend; the command line prints them without a traceback."""


class SpaceError(NasforgeError):
    """A search space is malformed, or a value lies outside its domain."""


class ConfigError(NasforgeError):
    """A configuration has one or more problems; `problems` holds them all."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems: tuple[Problem, ...] = (Problem(problems),) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class TrustError(ConfigError):
    """A file that may be somebody else's names code, and the user has not agreed to run it."""


class RecipeError(ConfigError):
    """A recipe that cannot be, or not with this network or these images; another point of the space may be trained."""


class JournalError(NasforgeError):
    """A journal cannot be read, is locked by another driver, or does not belong to this configuration."""


class EventError(NasforgeError):
    """A plug-in or a journal says what an event cannot hold: a text where a number belongs, a negative charge."""


class BuildError(NasforgeError):
    """A builder could not make a network from an architecture, or left a decision unread."""


class DataError(NasforgeError):
    """A data set is missing, malformed or unreadable."""


class SearchError(NasforgeError):
    """A search cannot go on: nothing feasible, workers that fail at once, a metric nobody reports."""


class ExportError(NasforgeError):
    """An exported model could not be written, or differs from the network it was made from."""


class TrackingError(NasforgeError):
    """A tracking server refused or could not be reached."""


class StopNow(KeyboardInterrupt):
    """The user or the scheduler asked for an end; the same call continues."""


class TimeOver(StopNow):
    """The time that the caller gave a search is over: it ends as planned."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a configuration, with the place where it stands."""

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.key, self.message) if part)


def one_line(error: BaseException | str, most: int = 300) -> str:
    """The text of any library's error on one line of at most `most` characters, without codes for colours."""
    text = " ".join(_CONTROLS.sub("", str(error)).split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def did_you_mean(got: str, allowed: Iterable[str]) -> str:
    """The end of an error message for an unknown name: the closest allowed ones, then all of them (at most twenty).

    Example:
        >>> did_you_mean("evolutoin", ["evolution", "random"])
        "did you mean 'evolution'? Known: evolution, random"
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(got, names, n=2)
    hint = f"did you mean {' or '.join(repr(name) for name in close)}? " if close else ""
    rest = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{hint}Known: {', '.join(names[:20]) if names else '(none)'}{rest}"
