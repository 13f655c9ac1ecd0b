"""A training's costs and limits: seconds and multiply-adds of all attempts, a time limit, a deadline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from nasforge.core.trial import Cause, Charge
from nasforge.training.failures import TrainingFailed

Deadline = Callable[[], float | None]
"""Called when a training begins. Returns the `time.monotonic()` after which it ends; None: no end."""

_DEADLINE: ContextVar[tuple[Deadline, float] | None] = ContextVar("deadline", default=None)


@contextmanager
def trainings_end_by(deadline: Deadline, until: float = 0.0) -> Iterator[None]:
    """Give the trainings of this block, in this process, a deadline.

    A late training ends with its epoch, which is not a failure. Only `fit` sets a deadline: a search without one finds
    the same networks on a slow machine as on a fast one.

    Args:
        deadline: the deadline.
        until: orders the deadlines of several processes. A training that ended late and is called again continues only
            under a deadline with a larger number, or without one.
    """
    token = _DEADLINE.set((deadline, until))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def deadline_now() -> float | None:
    """Return the deadline of a training that begins now."""
    current = _DEADLINE.get()
    return None if current is None else current[0]()


@dataclass(frozen=True)
class Limits:
    """Ends of a training before its last epoch.

    Attributes:
        until: epochs after which the training ends; None: all epochs. Its checkpoint is then the `start` of the
            training that continues it.
        seconds: seconds that all attempts together may take; None: no limit.
        since: `time.monotonic()` at which the work of this attempt began; None: when `train` was called.
    """

    until: int | None = None
    seconds: float | None = None
    since: float | None = None


class Meter:
    """Seconds and multiply-adds of a training, those of earlier attempts included.

    Attributes:
        train_s: seconds of training steps.
        worker_s: seconds of everything, as of the last step or epoch.
        multiply_adds: multiply-adds of training steps.
        until: number of the deadline, see `trainings_end_by`; infinite without one.
    """

    def __init__(self, limits: Limits) -> None:
        """Start the clock, or take the time at which it started from the limits."""
        self.train_s = 0.0
        self.worker_s = 0.0
        self.multiply_adds = 0.0
        self._seconds = limits.seconds
        self._began = time.monotonic() if limits.since is None else limits.since
        self._latest = deadline_now()
        current = _DEADLINE.get()
        self.until = math.inf if current is None else current[1]
        self._earlier_s = 0.0
        self._epoch_began = 0.0

    @property
    def charge(self) -> Charge:
        """Cost of all attempts, as of the last step or epoch."""
        return Charge(self.worker_s, self.multiply_adds)

    @property
    def late(self) -> bool:
        """True after the deadline."""
        return self._latest is not None and time.monotonic() > self._latest

    @property
    def over_limit(self) -> str:
        """The time limit in words when the training has exceeded it; else empty."""
        over = self._seconds is not None and self.worker_s > self._seconds
        return f"over the limit of {self._seconds:g} s" if over else ""

    def begin_epoch(self) -> None:
        """Start to count seconds of training steps."""
        self._epoch_began = time.monotonic() - self.train_s

    def count_step(self, images: int, flops: float) -> None:
        """Count a step: forward and backward pass take three times the multiply-adds of the forward pass."""
        self.multiply_adds += 3 * flops * images
        now = time.monotonic()
        self.train_s = now - self._epoch_began
        self.worker_s = self._earlier_s + now - self._began

    def end_steps(self) -> None:
        """Count the time until the device has finished the epoch's steps: a GPU works behind the calls."""
        self.train_s = time.monotonic() - self._epoch_began
        self._look_at_the_clock()

    def metrics(self) -> dict[str, float]:
        """Return what the training has cost by now."""
        self._look_at_the_clock()
        return {
            "time/train_s": self.train_s,
            "time/worker_s": self.worker_s,
            "work/multiply_adds": self.multiply_adds,
        }

    def fail(self, cause: Cause, message: str, advice: str) -> TrainingFailed:
        """Return the error that ends the training, with its cost by now."""
        self._look_at_the_clock()
        return TrainingFailed(cause, message, advice, self.charge)

    def state_dict(self) -> dict[str, float]:
        """Return the numbers for the checkpoint."""
        return {"train_s": self.train_s, "worker_s": self.worker_s, "multiply_adds": self.multiply_adds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from an earlier attempt."""
        self.train_s, self.worker_s, self.multiply_adds = (
            state["train_s"],
            state["worker_s"],
            state["multiply_adds"],
        )
        self._earlier_s = self.worker_s

    def _look_at_the_clock(self) -> None:
        self.worker_s = self._earlier_s + time.monotonic() - self._began
