"""What brings MLflow up to the journal, from where the last delivery ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nasforge.trackers.mlflow_client import SOURCE, MlflowClient, MlflowException, entities, experiment_id, reason
from nasforge.trackers.position import JournalFollower, ids_of, lock_delivery, new_ids, one_creator, read_ids, write_ids
from nasforge.trackers.runs import ARCHITECTURE, PARENT, TAG_LENGTH, Runs, Writes
from nasforge.trackers.tracking_uri import sqlite_file, without_password

_CHUNK = 500
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")


class Delivery:
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
        self._mine = ids_of(self._ids, self._uri, self._folder.parent)

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
                self._experiment, run_name=self._folder.name, tags={"nasforge.key": self._mine["key"], **SOURCE}
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
            tags = {**identity, **SOURCE, **_tags(writes)}
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


def _tags(writes: Writes) -> dict[str, str]:
    tags = {key: value[:TAG_LENGTH] for key, value in writes.tags.items()}
    if writes.architecture:
        long = len(writes.architecture) > TAG_LENGTH
        tags[ARCHITECTURE] = "see the artifact architecture.json" if long else writes.architecture
    return tags
