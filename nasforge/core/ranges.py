"""The one check of whole numbers, numbers in a range, and booleans; every message about them is made here.

`True` is no number here, though Python counts it among the integers. NaN and infinities are in no range.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeGuard

from nasforge.core.errors import ConfigError, NasforgeError

LARGEST = 1e300
"""Largest number of a range without an upper end: far above every sensible setting, and still a float."""
FLAG = "true or false"
"""The allowed values of a boolean setting."""
_SHOWN = 80


def is_whole(value: Any) -> TypeGuard[int]:
    """Return True for an integer that is no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Return True for an integer or a float, NaN and infinities included, that is no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may have.

    Attributes:
        whole: integers only.
        least: smallest number; None for no such limit.
        over: limit that is itself too small; None for no such limit.
        most: largest number; None for no such limit.
        below: limit that is itself too large; None for no such limit.
    """

    _: KW_ONLY
    whole: bool = False
    least: float | None = None
    over: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: Any) -> bool:
        if not (is_whole(value) if self.whole else is_number(value)) or not -LARGEST <= value <= LARGEST:
            return False
        return (
            (self.least is None or value >= self.least)
            and (self.over is None or value > self.over)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return `a whole number of at least 1` or `a number above 0 and below 1`."""
        return f"a {'whole ' if self.whole else ''}number {self.limits}".strip()

    @property
    def limits(self) -> str:
        """`of at least 1`, `from 0 to 30`, `above 0 and below 1`; empty without limits."""
        if self.least is not None and self.most is not None:
            return f"from {_text(self.least)} to {_text(self.most)}"
        named = {"of at least": self.least, "above": self.over, "at most": self.most, "below": self.below}
        return " and ".join(f"{words} {_text(limit)}" for words, limit in named.items() if limit is not None)

    def check(self, value: Any, name: str, error: type[Exception] = ConfigError) -> Any:
        """Return `value` if it is in the range.

        Args:
            value: the value of a setting.
            name: where it stands, for the message: `data: images`.
            error: what to raise.

        Raises:
            error: it is outside.
        """
        if value not in self:
            raise _error(error, f"{name} must be {self}, got {shown(value)}", name, self.kind_of(value))
        return value

    def kind_of(self, value: Any) -> str:
        """Return the kind of the error for a value outside: `range` for a number, `type` for any other."""
        return "range" if is_number(value) else "type"


def check_whole(
    value: Any, name: str, least: int | None = None, most: int | None = None, error: type[Exception] = ConfigError
) -> int:
    """Return `value` if it is an integer from `least` to `most`; see `Range.check`."""
    number: int = Range(whole=True, least=least, most=most).check(value, name, error)
    return number


def check_number(
    value: Any,
    name: str,
    *,
    least: float | None = None,
    over: float | None = None,
    most: float | None = None,
    below: float | None = None,
    error: type[Exception] = ConfigError,
) -> float:
    """Return `value` if it is a number within these limits; see `Range` and `Range.check`."""
    number: float = Range(least=least, over=over, most=most, below=below).check(value, name, error)
    return number


def check_flag(value: Any, name: str, error: type[Exception] = ConfigError) -> bool:
    """Return `value` if it is a boolean; else raise `error`, with `name` in its message."""
    if not isinstance(value, bool):
        raise _error(error, f"{name} must be {FLAG}, got {shown(value)}", name, "type")
    return value


def shown(value: Any) -> str:
    """Return the `repr` of a value for a message, cut to 80 characters."""
    try:
        text = repr(value)
    except Exception:  # a plug-in's object, or an integer of thousands of digits
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _error(error: type[Exception], message: str, name: str, kind: str) -> Exception:
    """Make an error of this type; one of ours has the kind, and as key the name: `data.images`, `seeds` of --seeds."""
    if not issubclass(error, NasforgeError):
        return error(message)
    return error(message, kind=kind, key=re.sub(r" '[^']*'", "", name).replace(": ", ".").removeprefix("--"))


def _text(limit: float) -> str:
    return str(limit) if is_whole(limit) else f"{limit:g}"
