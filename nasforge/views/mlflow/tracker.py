"""MLflow as a view of the journal: one experiment per search, one run per trial, delivered off the hot path.

The tracker follows the journal's file; an event only rings its bell. So there is one source of what is delivered, live,
after a crash and in `nasforge track`, and a server that is away costs no memory: the events wait where they are safe.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasforge.core.errors import NasforgeError, TimeOver, TrackingError
from nasforge.core.events import Event
from nasforge.core.say import Say, silent
from nasforge.core.tracking_uri import tracking_uri
from nasforge.views.mlflow.client import advice, reason
from nasforge.views.mlflow.delivery import Delivery
from nasforge.views.mlflow.position import destination
from nasforge.views.mlflow.progress import Progress, ProgressLines

__all__ = ["MlflowTracker", "destination", "track"]

_LONGEST_PAUSE_S = 30.0
_BETWEEN_LOOKS_S = 0.2
STOPPED_S = 5.0
"""The longest that MLflow keeps a process that the user or the scheduler stops; most schedulers kill it after 30 s."""
_MANY = 500
"""Events that are worth a line while the user waits."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


class MlflowTracker:
    """Delivers a running search to MLflow from its own thread; once made, it neither raises nor makes a search wait.

    Attributes:
        stopped: whether Ctrl-C ended the waiting of `close`.
    """

    def __init__(
        self,
        folder: Path,
        uri: str | None = None,
        *,
        say: Say = _warn,
        every_s: float = 1.0,
        patience_s: float = 12.0,
        wait_s: float = 60.0,
        of_search: bool = True,
        name: str = "",
    ) -> None:
        """Check the URI; nothing is contacted before the first event.

        Args:
            folder: the experiment's folder, with the journal in it or to come.
            uri: an MLflow tracking URI; None for `mlflow.db` in the runs folder.
            say: takes what the user should know.
            every_s: events are gathered for so long and written together.
            patience_s: `close` gives up after so long without progress.
            wait_s: the longest that `close` takes; `STOPPED_S` after a stop.
            of_search: whether the search itself runs; False for work on its finalists.
            name: of the search's run; empty for the folder's.

        Raises:
            TrackingError: MLflow cannot keep runs at that URI.
        """
        self._folder = folder.absolute()
        self._delivery = Delivery(self._folder, tracking_uri(uri, self._folder.parent), of_search=of_search, name=name)
        self._say = say
        self._every_s = every_s
        self._patience_s = patience_s
        self._wait_s = wait_s
        self._of_search = of_search
        self._was_stopped = False
        self._bell = threading.Event()
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._trouble = ""
        self._advice = ""
        self.stopped = False
        self._thread: threading.Thread | None = None

    def on_event(self, event: Event) -> None:
        """Ring the bell: the journal has something new."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="nasforge-mlflow", daemon=True)
            self._thread.start()
        self._bell.set()

    def ended_by(self, error: BaseException) -> None:
        """Mark the search's run as failed by this exception, or as killed by a stop, after which `close` is quick."""
        planned = isinstance(error, TimeOver)
        self._was_stopped = isinstance(error, KeyboardInterrupt) and not planned
        if self._of_search:
            self._delivery.end = "FINISHED" if planned else "KILLED" if self._was_stopped else "FAILED"

    def close(self) -> None:
        """Deliver what is left, within bounds; says what could not be delivered. Ctrl-C ends the waiting: `stopped`."""
        if self._thread is None:
            return
        self._closing.set()
        self._bell.set()
        trouble = ""
        try:
            self._wait()
        except KeyboardInterrupt:
            trouble, self.stopped = "stopped", True
        stuck = not self._ended.is_set()
        left = self._delivery.left()
        if stuck:
            self._delivery.remember_end()
        if left or stuck:
            trouble = trouble or self._trouble or ("it does not answer in time" if stuck else "")
            first_step = f"{self._advice} first. " if self._advice else ""
            self._say(
                f"MLflow at {self._delivery.shown}: {left} events of '{self._delivery.name}' are not delivered"
                f"{f' ({trouble})' if trouble else ''}. Nothing is lost. {self._delivery.password_note()}"
                f"{first_step}This command delivers them: {self._delivery.command()}"
            )
        for message in (self._delivery.refusal_message(), self._delivery.renaming_message()):
            if message:
                self._say(message)

    def _wait(self) -> None:
        """Wait for the delivery's end as long as it makes progress; a line tells how far it is, where it is longer."""
        start = time.monotonic()
        wait_s = min(self._wait_s, STOPPED_S) if self._was_stopped else self._wait_s
        seen, since = self._delivery.progress, start
        lines = ProgressLines(self._say, self._delivery.name, "events", self._delivery.command())
        many = self._delivery.unsent() > _MANY
        if many:
            lines(*self._progress())
        while time.monotonic() < min(start + wait_s, since + self._patience_s):
            if self._ended.wait(0.1):  # `Thread.join` takes a thread for ended when a signal interrupts it
                return
            if many and lines.is_due:
                lines(*self._progress())
            if self._delivery.progress != seen or self._delivery.makes_database:
                seen, since = self._delivery.progress, time.monotonic()

    def _progress(self) -> tuple[int, int]:
        """Return about how many events MLflow has, and how many there are."""
        total = self._delivery.total()
        return total - self._delivery.unsent(), total

    def _work(self) -> None:
        pause_s = 1.0
        try:
            while True:
                self._bell.wait()
                closing = self._closing.is_set()
                if not closing:
                    self._closing.wait(self._every_s)
                self._bell.clear()
                closing = self._closing.is_set()
                try:
                    self._delivery.deliver(live=True)
                    for note in self._delivery.notes():
                        self._say(note)
                    if closing:
                        self._delivery.finish()
                    self._trouble, self._advice, pause_s = "", "", 1.0
                except Exception as error:
                    self._complain(error)
                    if closing:
                        self._delivery.remember_end()
                        return
                    self._closing.wait(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    self._bell.set()
                if closing:
                    return
        finally:
            self._delivery.release()
            self._ended.set()

    def _complain(self, error: Exception) -> None:
        first = not self._delivery.complained
        self._delivery.complained = True
        ours = isinstance(error, NasforgeError)
        self._trouble = str(error) if ours else reason(error, self._delivery.uri)
        self._advice = advice(error)
        if first and self._advice:
            self._say(
                f"MLflow at {self._delivery.shown}: {self._trouble}. The search goes on, and nothing is lost. "
                f"{self._advice}, then run: {self._delivery.command()}"
            )
        elif first and not self._closing.is_set():
            what = self._trouble if ours else f"it takes nothing at the moment ({self._trouble})"
            self._say(
                f"MLflow at {self._delivery.shown}: {what}. The search continues, and the missing events are sent "
                f"as soon as possible. {self._delivery.password_note()}To send them later: {self._delivery.command()}"
            )


def track(
    folder: Path,
    uri: str | None = None,
    name: str = "",
    *,
    say: Say = silent,
    fit: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Deliver what MLflow has not yet of an experiment's journal; once delivered is never delivered again.

    Args:
        folder: the experiment's folder.
        uri: where to; None as in `destination`.
        name: of the search's run, if it is made now; empty for the folder's.
        say: takes what the user should know.
        fit: the result of the fit that holds the search, as `nasforge fit --json` prints it; None where there is none.
        progress: takes the number of events that MLflow has, and of all, several times a second. Several threads call
            it, one after the other.

    Returns:
        The number of events delivered now.

    Raises:
        JournalError: no experiment there, or a corrupt journal.
        TrackingError: the URI is none of MLflow's, the server cannot be reached, or a running search delivers already.
    """
    folder = folder.absolute()
    shown, lock = -math.inf, threading.Lock()

    def show_progress() -> None:
        nonlocal shown
        with lock:
            if time.monotonic() - shown > _BETWEEN_LOOKS_S:  # each time the journal's lines are counted
                shown = time.monotonic()
                total = delivery.total()
                progress(total - delivery.unsent(), total)

    place = tracking_uri(destination(folder, uri), folder.parent)
    delivery = Delivery(folder, place, name=name, on_answer=show_progress)
    try:
        delivery.deliver(live=False)
        delivery.finish()
        progress(delivery.total(), delivery.total())
        if fit is not None:
            delivery.write_leaderboard(fit)
        for note in delivery.notes():
            say(note)
    except NasforgeError:
        raise
    except Exception as error:  # whatever a server, a database driver or the network throws
        count = f"{delivery.events} of {delivery.events + delivery.left()}"
        raise TrackingError(
            f"MLflow at {delivery.shown} takes nothing ({reason(error, delivery.uri)}). {count} events were delivered. "
            f"{advice(error) or 'Make sure that the server runs'}, then run the same command to continue",
            kind="failed",
        ) from None  # the cause may hold the password
    finally:
        delivery.release()
    refused = delivery.refusal_message()
    if refused:
        raise TrackingError(refused, kind="failed")
    return delivery.events
