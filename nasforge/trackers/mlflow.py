"""MLflow as a view of the journal: one parent run per search, one run per trial, delivered off the hot path.

The tracker follows the journal's file; an event only rings its bell. So there is one source of what is delivered, live,
after a crash and in `nasforge track`, and a server that is away costs no memory: the events wait where they are safe.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from nasforge.core.errors import NasforgeError, TrackingError
from nasforge.core.events import Event, header_of
from nasforge.journal import read_events
from nasforge.trackers.delivery import Delivery
from nasforge.trackers.mlflow_client import reason
from nasforge.trackers.tracking_uri import tracking_uri

__all__ = ["MlflowTracker", "track"]

_LONGEST_PAUSE_S = 30.0


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


class MlflowTracker:
    """Delivers a running search to MLflow from its own thread; once made, it neither raises nor makes a search wait."""

    def __init__(
        self,
        folder: Path,
        uri: str | None = None,
        *,
        say: Callable[[str], None] = _warn,
        every_s: float = 1.0,
        patience_s: float = 12.0,
        wait_s: float = 60.0,
    ) -> None:
        """Check the URI; nothing is contacted before the first event.

        Args:
            folder: the experiment's folder, with the journal in it or to come.
            uri: an MLflow tracking URI; None for `mlflow.db` in the runs folder.
            say: takes what the user should know.
            every_s: events are gathered for so long and written together.
            patience_s: `close` gives up after so long without progress.
            wait_s: the longest that `close` takes.

        Raises:
            TrackingError: MLflow cannot keep runs at that URI.
        """
        self._folder = folder.absolute()
        self._delivery = Delivery(self._folder, tracking_uri(uri, self._folder.parent))
        self._say = say
        self._every_s = every_s
        self._patience_s = patience_s
        self._wait_s = wait_s
        self._bell = threading.Event()
        self._closing = threading.Event()
        self._trouble = ""
        self._thread: threading.Thread | None = None

    def on_event(self, event: Event) -> None:
        """Ring the bell: the journal has something new."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="nasforge-mlflow", daemon=True)
            self._thread.start()
        self._bell.set()

    def close(self) -> None:
        """Deliver what is left, within bounds; says what could not be delivered."""
        if self._thread is None:
            return
        self._closing.set()
        self._bell.set()
        end = time.monotonic() + self._wait_s
        seen, since = self._delivery.progress, time.monotonic()
        while self._thread.is_alive() and time.monotonic() < min(end, since + self._patience_s):
            self._thread.join(0.1)
            if self._delivery.progress != seen:
                seen, since = self._delivery.progress, time.monotonic()
        stuck = self._thread.is_alive()
        left = self._delivery.left()
        if left or stuck:
            reason = self._trouble or ("it does not answer in time" if stuck else "")
            self._say(
                f"MLflow at {self._delivery.shown}: {left} events of '{self._folder.name}' are not delivered"
                f"{f' ({reason})' if reason else ''}. Nothing is lost: `nasforge track {self._folder.name}` delivers "
                "them."
            )
        if self._delivery.refusals:
            self._say(self._delivery.refusal_message())

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
                    if closing:
                        self._delivery.finish()
                    self._trouble, pause_s = "", 1.0
                except Exception as error:
                    self._complain(error)
                    if closing:
                        return
                    self._closing.wait(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    self._bell.set()
                if closing:
                    return
        finally:
            self._delivery.release()

    def _complain(self, error: Exception) -> None:
        first = not self._delivery.complained
        self._delivery.complained = True
        self._trouble = reason(error)
        if first and not self._closing.is_set():
            self._say(
                f"MLflow at {self._delivery.shown} takes nothing at the moment ({self._trouble}). The search goes on; "
                "what is missing is delivered as soon as it can be, at the latest by "
                f"`nasforge track {self._folder.name}`."
            )


def track(folder: Path, uri: str | None = None) -> int:
    """Deliver what MLflow has not yet of an experiment's journal; once delivered is never delivered again.

    Args:
        folder: the experiment's folder.
        uri: where to; None for the URI that the search was given.

    Returns:
        The number of events delivered now.

    Raises:
        JournalError: no experiment there, or a corrupt journal.
        TrackingError: the URI is none of MLflow's, the server cannot be reached, or a running search delivers already.
    """
    folder = folder.absolute()
    chosen = uri if uri is not None else header_of(read_events(folder)).config.get("tracking_uri")
    if chosen == "none":
        raise TrackingError(f"'{folder.name}' was searched without tracking; say where to with --tracking-uri")
    delivery = Delivery(folder, tracking_uri(chosen, folder.parent))
    before = delivery.left()
    try:
        delivery.deliver(live=False)
        delivery.finish()
        delivery.log_figures()
    except NasforgeError:
        raise
    except Exception as error:  # whatever a server, a database driver or the network throws
        raise TrackingError(
            f"MLflow at {delivery.shown} takes nothing ({reason(error)}). {delivery.events} of {before} events "
            "were delivered; make sure that the server runs, then run the same command to continue"
        ) from error
    finally:
        delivery.release()
    if delivery.refusals:
        raise TrackingError(delivery.refusal_message())
    return delivery.events
