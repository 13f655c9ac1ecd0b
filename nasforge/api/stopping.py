"""Signals: how Ctrl-C, SIGTERM and a closed terminal (SIGHUP) stop a search, a campaign or a retraining."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from nasforge.core.errors import StopNow
from nasforge.core.say import Say

if TYPE_CHECKING:
    from nasforge.experiment.experiment import Experiment
    from nasforge.experiment.state import State

CONTINUES = "the same command continues"
_ONE_STOP_S = 2.0
"""Signals that come this close to one that stops the search say the same again."""

Handler: TypeAlias = Callable[[int, FrameType | None], Any] | signal.Handlers
"""Of a signal."""


@dataclass
class Asked:
    """Requests of the user by signals.

    Attributes:
        soon: no new trials.
        now: what was raised; None while nothing was.
    """

    soon: bool = False
    now: StopNow | None = None


@contextmanager
def search_signals(experiment: Experiment, say: Say, patient: bool = True) -> Iterator[Asked]:
    """Ctrl-C once: no new trials; twice, SIGTERM or SIGHUP: stop now. Only where signals can be received (main thread).

    Without `patient` the first Ctrl-C stops now.
    """
    asked = Asked()

    def stop_now(why: str) -> None:
        if _is_new_stop():
            asked.now = StopNow(f"stopped {why} {progress_of(experiment.state)}; {CONTINUES}")
            experiment.stop_now(asked.now)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if experiment.stopping or not patient:
            stop_now("at once")
            return
        asked.soon = True
        experiment.stop()
        say("Stopping: no new trials, waiting for those that run. Ctrl-C again stops now; both can be continued.")

    def on_terminate(number: int, frame: FrameType | None) -> None:
        stop_now(f"on {signal.Signals(number).name}")

    _LastStop.at = -math.inf
    with _handlers({signal.SIGINT: on_interrupt, signal.SIGTERM: on_terminate, signal.SIGHUP: on_terminate}):
        yield asked


@contextmanager
def _handlers(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handlers of signals for the block; only the main thread can have any. `nohup` stays in force."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in handlers}
    if before.get(signal.SIGHUP) is signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _LastStop:
    """Time at which a signal last stopped this process."""

    at = -math.inf


def _is_new_stop() -> bool:
    """Return whether a signal asks for another stop than the one a moment ago.

    A second signal must not break into what the first one cleans up, unless the first was swallowed.
    """
    if time.monotonic() - _LastStop.at < _ONE_STOP_S:
        return False
    _LastStop.at = time.monotonic()
    return True


def progress_of(state: State) -> str:
    """Return the progress of a search: `at 3 of 40 trials`."""
    closed = max(0, state.accepted - len(state.open_trials))  # a proposal that is being checked is open already
    limit = state.budget.trials
    return f"at {closed} of {limit:g} trials" if math.isfinite(limit) else f"after {closed} trials"


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM or SIGHUP ends what runs as Ctrl-C does; only where signals can be received (main thread)."""

    def on_terminate(number: int, frame: FrameType | None) -> None:
        if _is_new_stop():
            raise StopNow(f"stopped on {signal.Signals(number).name}; {CONTINUES}")

    _LastStop.at = -math.inf
    with _handlers({signal.SIGTERM: on_terminate, signal.SIGHUP: on_terminate}):
        yield


@contextmanager
def stops_ignored() -> Iterator[None]:
    """Signals that stop do nothing, for a process that is about to end; only where signals can be received."""
    with _handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)):
        yield
