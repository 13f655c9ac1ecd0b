"""MLflow as a view of the journal: one parent run per search, one run per trial, delivered off the hot path.

The tracker follows the journal's file; an event only rings its bell. So there is one source of what is delivered, live,
after a crash and in `nasforge track`, and a server that is away costs no memory: the events wait where they are safe.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nasforge.core.errors import NasforgeError, TrackingError
from nasforge.core.events import Event
from nasforge.journal import read_events
from nasforge.trackers.position import JournalFollower, lock_delivery, new_ids, one_creator, read_ids, write_ids
from nasforge.trackers.runs import ARCHITECTURE, PARENT, TAG_LENGTH, Runs, Writes
from nasforge.trackers.tracking_uri import sqlite_file, tracking_uri, ui_command, without_password

__all__ = ["MlflowClient", "MlflowException", "MlflowTracker", "entities", "experiment_id", "reason"]
__all__ += ["track", "tracking_uri", "ui_command"]

# Read by mlflow when it is imported; a user's own settings go first. Trying again is our own work, so requests do not.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow.entities as entities  # noqa: E402
import mlflow.store.db.utils as database_store  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

# MLflow tries to open a database eleven times, three minutes in all, also one that is no database.
database_store.MAX_RETRY_COUNT = 2

# Without it the UI opens on its pages for language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_SOURCE = {"mlflow.source.name": "nasforge", "mlflow.source.type": "LOCAL"}
_CHUNK = 500
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
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
        self._delivery = _Delivery(self._folder, tracking_uri(uri, self._folder.parent))
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
    header: Any = read_events(folder)[0]
    chosen = uri if uri is not None else header.config.get("tracking_uri")
    if chosen == "none":
        raise TrackingError(f"'{folder.name}' was searched without tracking; say where to with --tracking-uri")
    delivery = _Delivery(folder, tracking_uri(chosen, folder.parent))
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


class _Delivery:
    """Journal -> MLflow, from the stored position on. Every step may be repeated after a failure or a kill.

    Attributes:
        shown: the URI without password.
        progress: runs written so far, for whoever waits.
        events: delivered so far by this object.
        refusals: what the server did not want, one line each.
        complained: whether the user knows of trouble.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.shown = without_password(uri)
        self.progress = 0
        self.events = 0
        self.refusals: list[str] = []
        self.complained = False
        self._folder = folder
        self._uri = uri
        self._journal = JournalFollower(folder)
        self._runs = Runs()
        self._writes: dict[str, Writes] = {}
        self._client: Any = None
        self._experiment = ""
        self._parent: tuple[str, int] = ("", 0)
        self._open: dict[str, tuple[str, int]] = {}
        self._sure = False  # whether a run that we have no id of is known not to exist
        self._lock: int | None = None
        self._read_ids()

    def _read_ids(self) -> None:
        self._ids = read_ids(self._folder)
        # The default store moves with its runs folder, so it is not named by its path.
        default = self._uri == tracking_uri(None, self._folder.parent)
        self._mine: dict[str, Any] = self._ids["stores"].setdefault("default" if default else self.shown, new_ids())

    def left(self) -> int:
        """Events in the journal that are not delivered."""
        return self._journal.total() - int(self._mine["delivered"])

    def deliver(self, *, live: bool) -> None:
        """Bring MLflow up to the journal's last whole line; `live`: on behalf of a running search."""
        if self._lock is None:
            self._lock = lock_delivery(self._folder)
            self._read_ids()
        if not self._parent[0]:
            self._attach(live)
        while True:
            if not self._writes:
                events = self._journal.read(_CHUNK)
                if not events:
                    break
                self._writes = self._runs.fold(events, skip=int(self._mine["delivered"]))
            self._flush()
            if self._runs.position > self._mine["delivered"]:
                self.events += self._runs.position - self._mine["delivered"]
                self._mine["delivered"] = self._runs.position
                self._save()
        self._sure = True

    def finish(self) -> None:
        """Say in MLflow that nobody works on this any more; a continued search says the contrary."""
        state = self._runs.state
        if state is None:
            return
        status = "KILLED" if state.open_trials else "FINISHED"
        if self._mine["status"] == status:
            return
        for run_id, _ in self._open.values():
            self._client.set_terminated(run_id, "KILLED")
        self._client.set_terminated(self._parent[0], status)
        self._mine["status"] = status
        self._save()

    def log_figures(self) -> None:
        """Give the parent run the pages that `nasforge show NAME --importance` has written, as they are now."""
        for page in sorted((self._folder / "figures").glob("*.html")):
            self._client.log_artifact(self._parent[0], str(page), "figures")

    def release(self) -> None:
        """Let another process deliver."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def refusal_message(self) -> str:
        """What the server did not want."""
        return (
            f"MLflow at {self.shown} refused {len(self.refusals)} writes of '{self._folder.name}'; they are left out. "
            f"The first: {self.refusals[0]}"
        )

    # --- runs -------------------------------------------------------------------------------------------------------

    def _attach(self, live: bool) -> None:
        """Find or make the experiment and the parent run."""
        with one_creator(sqlite_file(self._uri)):
            self._client = MlflowClient(tracking_uri=self._uri)
            self._experiment = experiment_id(self._client, self._uri)
        found = self._find(f"tags.`nasforge.key` = '{self._mine['key']}'") if self._mine["delivered"] else None
        if self._mine["delivered"] and found is None:
            self._mine.update(new_ids())  # the runs were deleted: begin again
        self._save()  # the key must be known before the run exists
        found = found or self._find(f"tags.`nasforge.key` = '{self._mine['key']}'")
        if found is None:
            run = self._client.create_run(
                self._experiment, run_name=self._folder.name, tags={"nasforge.key": self._mine["key"], **_SOURCE}
            )
            found = (run.info.run_id, run.info.start_time)
            self._sure = True
        elif live:
            self._client.update_run(found[0], status="RUNNING")
        if live:
            self._mine["status"] = "RUNNING"
        self._mine["parent_run_id"] = found[0]
        self._mine["experiment_id"] = self._experiment
        self._open = {key: (run_id, start) for key, (run_id, start) in self._mine["open"].items()}
        self._save()
        self._parent = found

    def _find(self, condition: str) -> tuple[str, int] | None:
        runs = self._client.search_runs([self._experiment], condition, max_results=1)
        return (runs[0].info.run_id, runs[0].info.start_time) if runs else None

    def _flush(self) -> None:
        """Write what is folded; a run that is written leaves the list, so a repetition goes on where this one broke."""
        for key in list(self._writes):
            writes = self._writes[key]
            try:
                run = self._parent if key == PARENT else self._run(key, writes)
                self._write(run, writes)
            except MlflowException as error:
                if error.error_code not in _REFUSED:
                    self._sure = False  # a request without an answer may have been carried out
                    raise
                self.refusals.append(f"{writes.name}: {reason(error)}")
            except BaseException:
                self._sure = False
                raise
            if writes.done:
                self._open.pop(key, None)
            del self._writes[key]
            self.progress += 1

    def _run(self, key: str, writes: Writes) -> tuple[str, int]:
        if key in self._open:
            if writes.status == "RUNNING":
                self._client.update_run(self._open[key][0], status="RUNNING")
            return self._open[key]
        identity = {"mlflow.parentRunId": self._parent[0], **writes.identity}
        found = None
        if not self._sure:
            found = self._find(" and ".join(f"tags.`{name}` = '{value}'" for name, value in identity.items()))
        if found is None:
            # Tags that come with a new run are one insertion; added later each is a query of its own.
            tags = {**identity, **_SOURCE, **_tags(writes)}
            run = self._client.create_run(self._experiment, run_name=writes.name, tags=tags)
            writes.tags.clear()
            if len(writes.architecture) <= TAG_LENGTH:
                writes.architecture = ""
            found = (run.info.run_id, run.info.start_time)
        self._open[key] = found
        return found

    def _write(self, run: tuple[str, int], writes: Writes) -> None:
        run_id, start_ms = run
        if len(writes.architecture) > TAG_LENGTH:
            self._client.log_text(run_id, writes.architecture, "architecture.json")
        params = [entities.Param(key, value) for key, value in writes.params.items()]
        tags = [entities.RunTag(key, value) for key, value in _tags(writes).items()]
        metrics = [
            entities.Metric(key, value, start_ms + int(1000 * seconds), step)
            for (key, step, seconds), value in writes.metrics.items()
        ]
        while params or tags or metrics:
            self._client.log_batch(run_id, metrics=metrics[:500], params=params[:100], tags=tags[:100])
            metrics, params, tags = metrics[500:], params[100:], tags[100:]
        if writes.done:
            self._client.set_terminated(run_id, writes.status, start_ms + int(1000 * writes.seconds))
        elif writes.status == "KILLED":
            self._client.set_terminated(run_id, writes.status)

    def _save(self) -> None:
        self._mine["open"] = {key: list(run) for key, run in self._open.items()}
        write_ids(self._folder, self._ids)


def experiment_id(client: Any, uri: str) -> str:
    """Id of the MLflow experiment that all runs of ours go to, made where it is missing.

    Raises:
        TrackingError: it is deleted, or can neither be found nor made.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "nasforge")
    database = sqlite_file(uri)
    place = str(database.parent / "mlartifacts") if database else None
    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"MLflow's experiment '{name}' is deleted: restore it, or set MLFLOW_EXPERIMENT_NAME to another"
                )
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name, artifact_location=place, tags=_KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    raise TrackingError(f"MLflow's experiment '{name}' can neither be found nor made")


def _tags(writes: Writes) -> dict[str, str]:
    tags = {key: value[:TAG_LENGTH] for key, value in writes.tags.items()}
    if writes.architecture:
        long = len(writes.architecture) > TAG_LENGTH
        tags[ARCHITECTURE] = "see the artifact architecture.json" if long else writes.architecture
    return tags


def reason(error: Exception) -> str:
    """The first line of what went wrong, short enough for a message."""
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if "Connection refused" in line:
        return "connection refused"
    if "timeout" in line.lower() or "timed out" in line:
        return "it does not answer in time"
    return line[:200]
