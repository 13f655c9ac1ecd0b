"""Progress of a delivery to MLflow that somebody waits for, in lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from nasforge.core.say import Say

Progress: TypeAlias = Callable[[int, int], None]
"""Takes how much MLflow has, and how much it is to have."""

_FIRST_S, _PAUSE_S = 3.0, 10.0


class ProgressLines:
    """Prints a line now and then, and none for a delivery that is short."""

    def __init__(self, say: Say, name: str, unit: str, command: str) -> None:
        """Start the clock.

        Args:
            say: takes a line.
            name: of what is delivered.
            unit: what is counted, in the plural.
            command: delivers the rest.
        """
        self._say, self._name, self._unit, self._command = say, name, unit, command
        self._start = self._latest = time.monotonic()
        self._pause = _FIRST_S
        self._first: int | None = None
        self._shown = -1

    @property
    def is_due(self) -> bool:
        """True when the last line was long ago."""
        return time.monotonic() - self._latest > self._pause

    def __call__(self, done: int, total: int) -> None:
        """Print how far it is, if a line is due and has another number than the last one."""
        self._first = done if self._first is None else self._first
        if not self.is_due or not self._shown < done < total:
            return
        self._latest, self._pause, self._shown = time.monotonic(), _PAUSE_S, done
        sent = done - self._first
        rest = f", {(self._latest - self._start) * (total - done) / sent:.0f} s to go" if sent > 0 else ""
        self._say(
            f"MLflow has {done:,} of {total:,} {self._unit} of '{self._name}'{rest}. "
            f"Ctrl-C leaves them to: {self._command}"
        )
