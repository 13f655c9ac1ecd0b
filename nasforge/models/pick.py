"""Decisions that a builder asks for, and the answer of one architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import BuildError, did_you_mean
from nasforge.core.ranges import Range, is_whole


def option_of(key: str, value: Value, options: Mapping[Value, Callable[[], Any]]) -> Callable[[], Any]:
    """Return the entry of `options` for `value`.

    Raises:
        BuildError: the builder has no such option.
    """
    if value in options:
        return options[value]
    raise BuildError(
        f"decision '{MODEL}{key}': the builder has no option {value!r}; {_known(value, options)}",
        kind="unknown",
        key=MODEL + key,
    )


def _known(value: Value, options: Iterable[Value]) -> str:
    known = list(options)
    numbers = [option for option in known if is_whole(option)]
    if len(known) > 5 and numbers == known:
        return f"Known: whole numbers in {min(numbers)}..{max(numbers)}"
    return did_you_mean(str(value), map(str, known))


def width_of(key: str, value: Any, maximum: int | None) -> int:
    """Return `value` as a number of channels.

    Raises:
        BuildError: it is not a whole number from 1 to `maximum`.
    """
    if value not in Range(least=1) or value != int(value):
        raise BuildError(
            f"decision '{MODEL}{key}' must be a whole number of channels of at least 1, got {value!r}",
            kind="type",
            key=MODEL + key,
        )
    if maximum is not None and value > maximum:
        raise BuildError(
            f"decision '{MODEL}{key}' is {value:g}, but this builder takes at most {maximum} channels",
            kind="range",
            key=MODEL + key,
        )
    return int(value)


def number_of(key: str, value: Value) -> int | float:
    """Return `value` as a number.

    Raises:
        BuildError: it is a text or a truth value.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    raise BuildError(
        f"decision '{MODEL}{key}' must be a number, got {value!r}; read a choice with pick(key, options)",
        kind="type",
        key=MODEL + key,
    )


class Fixed:
    """Answer to a builder with the decisions of one architecture, which records the decisions that were read.

    Example:
        >>> pick = Fixed(architecture)
        >>> network = build(pick, in_channels=3, classes=10)
        >>> pick.finish()
    """

    def __init__(self, architecture: Architecture) -> None:
        self._values = architecture.model
        self._read: set[str] = set()

    def _value(self, key: str) -> Value:
        if key not in self._values:
            raise BuildError(
                f"the builder asks for decision '{MODEL}{key}', which this architecture does not have; declare it in "
                f"the search space (one option is enough). {did_you_mean(key, self._values)}",
                kind="unknown",
                key=MODEL + key,
            )
        self._read.add(key)
        return self._values[key]

    def __call__(self, key: str, options: Mapping[Value, Callable[[], Any]]) -> Any:
        """Build the option decided for `key`, and only that.

        Raises:
            BuildError: the architecture has no such decision, or the builder no such option.
        """
        return option_of(key, self._value(key), options)()

    def width(self, key: str, maximum: int | None = None) -> int:
        """Return the number of channels decided for `key`. Raises BuildError if it is not one, or above `maximum`."""
        return width_of(key, self._value(key), maximum)

    def value(self, key: str) -> int | float:
        """Return the number decided for `key`, of an int or a float. Raises BuildError if it is not a number."""
        return number_of(key, self._value(key))

    def finish(self) -> None:
        """Call after building.

        Raises:
            BuildError: a decision was never read: two architectures would name the same network.
        """
        unread = [key for key in self._values if key not in self._read]
        if unread:
            raise BuildError(
                f"the builder never read {', '.join(repr(MODEL + key) for key in unread)}; "
                f"remove it from the search space or use it. It reads {', '.join(sorted(self._read)) or 'none'}",
                kind="invalid",
                key=MODEL + unread[0],
            )
