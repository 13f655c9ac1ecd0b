"""A wall clock for trainings that somebody waits for: a late one ends with its epoch and is no failure.

Only `fit` has such a clock. A search without one gives the same networks on a slow machine as on a fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Deadline = Callable[[], float | None]
"""Asked when a training begins; gives the `time.monotonic()` after which it ends, None for no end."""

_DEADLINE: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def trainings_end_by(deadline: Deadline) -> Iterator[None]:
    """Give the trainings of this block, in this process, a deadline."""
    token = _DEADLINE.set(deadline)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def deadline_now() -> float | None:
    """Return the deadline of a training that begins now."""
    deadline = _DEADLINE.get()
    return None if deadline is None else deadline()
