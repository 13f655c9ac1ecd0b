"""Delivery of a journal to MLflow, from where the last delivery ended."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nasforge.core.architecture import digest
from nasforge.core.command_line import command_for
from nasforge.core.errors import TrackingError
from nasforge.core.locks import Lock
from nasforge.core.tracking_uri import VARIABLE, tracking_uri
from nasforge.core.uri import sqlite_file, without_password, without_secrets
from nasforge.experiment.journal import dumps
from nasforge.views.mlflow.client import (
    NO_ENDPOINT,
    POOL,
    SOURCE,
    MlflowClient,
    MlflowException,
    NewRun,
    TablesRefused,
    entities,
    experiment_id,
    experiment_of_key,
    insert_runs,
    reason,
)
from nasforge.views.mlflow.leaderboard import leaderboard_writes
from nasforge.views.mlflow.page import columns_tag
from nasforge.views.mlflow.position import (
    FLAT,
    JournalFollower,
    ids_of,
    is_copy,
    lock_delivery,
    new_ids,
    one_creator,
    read_ids,
    source_of,
    write_ids,
)
from nasforge.views.mlflow.runs import (
    ARCHITECTURE,
    PARENT,
    SEARCH_ROLE,
    TAG_LENGTH,
    Runs,
    Writes,
    allowed_key,
    plain_text,
)
from nasforge.views.mlflow.server import address_of
from nasforge.views.mlflow.threads import in_threads

_CHUNK = 500
_SERVER_THREADS = 4
"""Trials that are sent to a server at a time. Each of its requests waits for the network and for a commit."""
_BAD_CONTENT = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
_GONE = "RESOURCE_DOES_NOT_EXIST"
_REFUSED = (*_BAD_CONTENT, _GONE, "INVALID_STATE")
_OF_JOURNAL = ("journal", "folder", "ended", "ended_at")
"""Keys of the ids that are true of the journal, whatever the store has."""
_NAMES_SHOWN = 3
_CONTEXTS = {PARENT: "search", "finalist": "retraining", "row": "fit"}
"""Kinds of runs whose data set is logged, and what MLflow calls its use."""
ARTIFACT = "architecture.json"


class Delivery:
    """Journal -> MLflow, from the stored position on. Every step may be repeated after a failure or a kill.

    Attributes:
        uri: of the store, maybe with a password.
        name: of the search, as MLflow and messages have it.
        shown: the URI without password.
        progress: number of answers so far; it grows as long as MLflow takes something.
        events: delivered so far by this object, and rows of a fit.
        complained: whether the user knows of trouble.
        end: MLflow's status for a search that ended otherwise than by its budget; empty for one that did not.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        *,
        of_search: bool = True,
        name: str = "",
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Read how far the last delivery came.

        Args:
            folder: of the experiment.
            uri: from `tracking_uri`.
            of_search: whether the search itself goes on; work on its finalists leaves how it ended as it was.
            name: of the search's run; empty for the folder's.
            on_answer: is called after each answer of MLflow, by any thread.
        """
        self.uri = uri
        self.name = name or folder.name
        self.shown = without_password(uri)
        self.progress = 0
        self.events = 0
        self.complained = False
        self.end = ""
        self._folder = folder
        self._of_search = of_search
        self._on_answer = on_answer
        self._journal = JournalFollower(folder)
        self._runs = Runs(folder)
        self._writes: dict[str, Writes] = {}
        self._client: Any = None
        self._experiment = ""
        self._parent: tuple[str, int] = ("", 0)
        self._open: dict[str, tuple[str, int]] = {}
        self._known: dict[str, tuple[str, int]] = {}  # all runs that this object has seen
        self._starts: dict[str, int] = {}  # of what is written now, milliseconds since the epoch
        self._notes: list[str] = []
        self._noted: set[str] = set()
        self._sure = False  # whether a run that we have no id of is known not to exist
        self._lock: Lock | None = None
        self._ids: dict[str, Any] = {}
        self._mine: dict[str, Any] = new_ids()
        self._refused: dict[str, str] = {}
        self._renamed: dict[str, str] = {}
        self._threads = _SERVER_THREADS if address_of(uri) else 1
        self._counting = threading.Lock()
        self._saving = threading.Lock()
        self._folded = 0  # runs that were to be written when the latest events were read
        with suppress(TrackingError, OSError):  # `deliver` reads them again, and says what is wrong
            self._read_ids()

    def _read_ids(self) -> None:
        self._ids = read_ids(self._folder)
        self._mine = ids_of(self._ids, self.uri, self._folder.parent)
        journal = self._journal.fingerprint()
        if self._mine["journal"] not in ("", journal) or self._mine["delivered"] > self._journal.total():
            self._mine.update(new_ids())  # the journal was replaced or cut: the runs are those of another search
        if is_copy(self._folder, self._mine):
            self._mine.update(new_ids())
        self._mine.update(journal=journal, folder=str(self._folder.absolute()))
        if self._mine["ended"] and not self._mine["ended_at"]:  # earlier versions kept no length with it
            self._mine["ended_at"] = self._mine["delivered"]

    def total(self) -> int:
        """Events in the journal."""
        return self._journal.total()

    def left(self) -> int:
        """Events in the journal that are not delivered."""
        return max(0, self._journal.total() - int(self._mine["delivered"]))

    def unsent(self) -> int:
        """Return about how many events are not sent: those of `left`, without the share that is written already."""
        behind = self._runs.position - int(self._mine["delivered"])
        if behind <= 0 or not self._folded:
            return self.left()
        return self.left() - behind + round(behind * len(self._writes) / self._folded)

    def command(self) -> str:
        """Return the command that delivers the rest."""
        header = self._journal.header()
        try:
            stored = tracking_uri(header.config.get("tracking_uri"), self._folder.parent) if header else ""
        except TrackingError:
            stored = ""
        place = without_secrets(self.uri)
        option = [] if without_secrets(stored) == place else ["--tracking-uri", place]
        return command_for(self._folder, "track", *option)

    def password_note(self) -> str:
        """Return a note on a password, which no printed command contains; empty if there is none."""
        if without_secrets(self.uri) == self.uri:
            return ""
        return f"The password is not stored: set {VARIABLE} to the whole URI first. "

    def deliver(self, *, live: bool) -> None:
        """Bring MLflow up to the journal's last whole line; `live`: on behalf of a running search."""
        if self._lock is None:
            self._lock = lock_delivery(self._folder)
            self._ids = {}  # another process may have delivered in the meantime
        if not self._ids:
            self._read_ids()
        if not self._parent[0]:
            self._attach(live)
        while True:
            if not self._writes:
                events = self._journal.read(_CHUNK)
                if not events:
                    break
                self._writes = self._runs.fold(events, skip=int(self._mine["delivered"]))
                self._folded = len(self._writes)
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
        self._record_end()
        status = self._mine["ended"] or ("KILLED" if state.open_trials else "FINISHED")
        if self._mine["status"] == status:
            return
        for run_id, _ in self._open.values():
            try:
                self._client.set_terminated(run_id, "KILLED")
            except MlflowException as error:
                if error.error_code not in _REFUSED:  # refused: the user has deleted the run
                    raise
        self._client.set_terminated(self._parent[0], status)
        self._mine["status"] = status
        self._save()

    def _record_end(self) -> None:
        """Keep how the search ended; forget an end after which the search was continued without tracking."""
        if self.end:
            self._mine.update(ended=self.end, ended_at=self._journal.total())
        elif self._runs.searched > self._mine["ended_at"] > 0:
            self._mine.update(ended="", ended_at=0)

    @property
    def makes_database(self) -> bool:
        """True if it is at work on the tables of an SQLite file, which takes seconds and shows no progress."""
        return not self._experiment and sqlite_file(self.uri) is not None

    def remember_end(self) -> None:
        """Keep how the search ended for the delivery that reaches MLflow."""
        if self.end and self._ids and self._lock is not None:
            self._record_end()
            self._save()

    def write_leaderboard(self, content: Mapping[str, Any]) -> None:
        """Write the rows of a fit, unless they are there already.

        Args:
            content: of the fit's result, as `nasforge fit --json` prints it.
        """
        before = json.loads(self._mine["rows"] or "{}")
        now = {row["name"]: digest([dumps(row), content["winner"], content["reason"]]) for row in content["rows"]}
        if before == now:
            return
        self._writes = leaderboard_writes(content, self._runs, before)
        self._flush()
        self.events += len(now)
        self._mine["rows"] = json.dumps(now)
        self._save()

    def release(self) -> None:
        """Let another process deliver."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def refusal_message(self) -> str:
        """Return a message on what the server refused; empty if it accepted everything."""
        if not self._refused:
            return ""
        return (
            f"MLflow at {self.shown} refused {len(self._refused)} writes of '{self.name}'; they are left out. "
            f"The first: {next(iter(self._refused.values()))}"
        )

    def renaming_message(self) -> str:
        """Which names MLflow does not take as they are; empty where it takes all."""
        if not self._renamed:
            return ""
        pairs = [f"'{key[:60]}' is '{name[:60]}'" for key, name in list(self._renamed.items())[:_NAMES_SHOWN]]
        more = f", and {len(self._renamed) - _NAMES_SHOWN} more" if len(self._renamed) > _NAMES_SHOWN else ""
        return f"MLflow does not take some names of '{self.name}'; there {', '.join(pairs)}{more}"

    # --- runs -------------------------------------------------------------------------------------------------------

    def _attach(self, live: bool) -> None:
        """Find or make the experiment and the search's run."""
        self._open = {key: (run_id, start) for key, (run_id, start) in self._mine["open"].items()}
        with one_creator(sqlite_file(self.uri)):
            self._client = MlflowClient(tracking_uri=self.uri)
            self._save()  # the key must be known before the experiment exists
            self._settle()
        existing = self._find(self._identity)
        if existing is None and self._mine["parent_run_id"]:
            self._begin_again()
            self._settle()
        elif existing is not None and self._has_lost_runs():
            self._send_again()
        if existing is None:
            existing = self._create(self._runs.name or self.name, self._identity | SOURCE)
            self._log_data(existing[0], PARENT)
            self._sure = True
        elif live:
            self._client.update_run(existing[0], status="RUNNING")
        if live:
            self._mine["status"] = "RUNNING"
            if self._of_search:
                self._mine.update(ended="", ended_at=0)
        self._mine["parent_run_id"] = existing[0]
        self._mine["experiment_id"] = self._experiment
        self._save()
        self._parent = existing

    def _settle(self) -> None:
        """Find or make the experiment that the runs go to."""
        if self._mine["layout"] != FLAT:
            self._experiment = experiment_id(self._client, self.uri)
            return
        if self._mine["experiment_id"]:
            experiment = self._stored(self._client.get_experiment, self._mine["experiment_id"])
            if experiment is not None and experiment.lifecycle_stage == "active":
                self._experiment, self._runs.name = self._mine["experiment_id"], self._mine["name"]
                return
            self._begin_again()
        self._experiment, number = experiment_of_key(self._client, self.uri, self.name, self._mine["key"])
        self._count_answer()
        # A search is called like its experiment, so that no two searches have runs of one name.
        self._runs.name = self.name if number == 1 else f"{self.name} ({number})"
        self._mine["name"] = self._runs.name
        if number > 1:
            self._note(
                f"MLflow at {self.shown} has an experiment '{self.name}' already, of another search or deleted. "
                f"The runs of this search go to '{self._runs.name}'"
            )
        before = [name for name, store in self._ids["stores"].items() if store["delivered"] and store is not self._mine]
        if before:
            earlier = "mlflow.db in the runs folder" if before[-1] == "default" else before[-1]
            self._note(f"'{self.name}' was tracked at {earlier}. From now on it is tracked at {self.shown}")
        header = self._journal.header()
        if header is not None:
            tag = columns_tag(header, self._mine["key"], pooled=bool(os.environ.get(POOL)))
            with suppress(MlflowException):  # a view of the page is worth no trouble
                self._client.set_experiment_tag(self._experiment, *tag)

    def _stored(self, get: Callable[[str], Any], id_: str) -> Any:
        """Return what `get` finds under an id of an earlier delivery; None if the store has lost it."""
        try:
            content = get(id_)
        except MlflowException as error:
            if error.error_code != _GONE:
                raise
            content = None
        self._count_answer()
        return content

    def _begin_again(self) -> None:
        """Forget runs that were deleted, or that the store has lost."""
        self._note(f"MLflow at {self.shown} no longer has the runs of '{self.name}'. All of its events are sent again")
        self._mine.update({**new_ids(), **{key: self._mine[key] for key in _OF_JOURNAL}})
        self._open.clear()
        self._save()

    def _has_lost_runs(self) -> bool:
        """Return whether the store lacks runs that it had, as one that was restored from an older copy."""
        keys = {run_id: key for key, (run_id, _) in self._open.items()}
        if self._mine["latest_run_id"]:
            keys.setdefault(self._mine["latest_run_id"], "")
        for run_id, key in keys.items():
            run = self._stored(self._client.get_run, run_id)
            if run is None:
                return True
            if run.info.lifecycle_stage == "deleted":
                self._open.pop(key, None)  # by the user; later events go to a new run
        return False

    def _send_again(self) -> None:
        """Forget which events were delivered. The runs that are still there get the same content once more."""
        kept = ("key", "layout", "name", "experiment_id", "parent_run_id", *_OF_JOURNAL)
        self._mine.update({**new_ids(), **{key: self._mine[key] for key in kept}})
        self._open.clear()
        self._note(f"MLflow at {self.shown} has lost runs of '{self.name}'. All of its events are sent again")
        self._save()

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._notes.append(text)

    @property
    def _identity(self) -> dict[str, str]:
        """Tags of the search's run, and with another role of all others."""
        role = {"nasforge.role": SEARCH_ROLE} if self._mine["layout"] == FLAT else {}
        return {"nasforge.key": self._mine["key"], **role}

    def notes(self) -> list[str]:
        """Return what the user should know of this delivery; each sentence once."""
        notes, self._notes = self._notes, []
        return notes

    def _find(self, tags: Mapping[str, str]) -> tuple[str, int] | None:
        """Return the run with these tags: its id and start."""
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        runs = self._client.search_runs([self._experiment], condition, max_results=1)
        self._count_answer()
        if not runs:
            return None
        if not tags.items() <= runs[0].data.tags.items():
            raise TrackingError(
                f"{self.shown} answers with runs that nobody asked for, so it is not an MLflow server",
                kind="failed",
                key="tracking_uri",
            )
        return runs[0].info.run_id, runs[0].info.start_time

    def _create(self, name: str, tags: Mapping[str, str], start_ms: int | None = None) -> tuple[str, int]:
        """Return a new run: its id and start; `start_ms` None for now."""
        info = self._client.create_run(self._experiment, start_time=start_ms, run_name=name, tags=dict(tags)).info
        self._count_answer()
        if not info.run_id:
            raise TrackingError(
                f"{self.shown} makes runs without ids, so it is not an MLflow server", kind="failed", key="tracking_uri"
            )
        return info.run_id, info.start_time

    def _flush(self) -> None:
        """Write what is folded; a run that is written leaves the list, so a repetition goes on where this one broke."""
        # MLflow's page sorts by start, so runs that are written at once start one after the other.
        first_ms = max(int(1000 * time.time()), max(self._starts.values(), default=0) + 1)
        self._starts = {key: first_ms + index for index, key in enumerate(self._writes)}
        self._insert()
        in_threads(self._send, list(self._writes), self._threads)

    def _send(self, key: str) -> None:
        """Write one run."""
        writes = self._writes[key]
        try:
            run = self._parent if key == PARENT else self._run(key, writes)
            self._write(run, writes)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                self._sure = False  # a request without an answer may have been carried out
                raise
            self._refuse(writes.name, "", error)
        except BaseException:
            self._sure = False
            raise
        if writes.done:
            self._open.pop(key, None)
        elif key in self._open:
            self._mine["status"] = ""  # so that `finish` closes this run
        self._close(key, writes)

    def _insert(self) -> None:
        """Write the trials that have come and gone since the last delivery, all at once where the store can do that."""
        whole = {
            key: writes
            for key, writes in self._writes.items()
            if self._sure
            and writes.whole
            and key.startswith("trial/")
            and not (key in self._open or key in self._known)
        }
        if not whole:
            return
        new = [
            NewRun(
                name=writes.name,
                status=writes.status,
                start_ms=start_ms,
                end_ms=start_ms + int(1000 * writes.seconds),
                tags={**self._identity_of(writes), **SOURCE, **_tags(writes)},
                params=writes.params,
                metrics={(key, step, start_ms + int(1000 * s)): v for (key, step, s), v in writes.metrics.items()},
            )
            for start_ms, writes in ((self._starts[key], writes) for key, writes in whole.items())
        ]
        try:
            ids = insert_runs(self._client, self._experiment, new)
        except TablesRefused as error:
            ids = None
            self._note(
                f"MLflow's tables at {self.shown} do not take many runs at once ({error}). The runs of '{self.name}' "
                "are written one by one, which takes about ten times as long"
            )
        except BaseException:
            self._sure = False  # the answer may be lost, and not the runs
            raise
        for (key, writes), run_id in zip(whole.items(), ids or (), strict=False):
            self._known[key] = (run_id, self._starts[key])
            self._close(key, writes)
        if ids:
            self._mine["latest_run_id"] = ids[-1]

    def _close(self, key: str, writes: Writes) -> None:
        """Take note of writes that are done."""
        self._renamed.update(writes.renamed)
        self._refused.update({text: text for text in writes.left_out})
        del self._writes[key]
        self._count_answer()

    def _count_answer(self) -> None:
        with self._counting:
            self.progress += 1
        self._on_answer()

    def _identity_of(self, writes: Writes) -> dict[str, str]:
        """Return the tags that find a run of this search again."""
        flat = self._mine["layout"] == FLAT
        return {
            **({"nasforge.key": self._mine["key"]} if flat else {"mlflow.parentRunId": self._parent[0]}),
            **writes.identity,
        }

    def _run(self, key: str, writes: Writes) -> tuple[str, int]:
        if key in self._open:
            if writes.status == "RUNNING":
                self._client.update_run(self._open[key][0], status="RUNNING")
            return self._open[key]
        if key in self._known and writes.exists:
            return self._known[key]
        identity = self._identity_of(writes)
        existing = None if self._sure and not writes.exists else self._find(identity)
        if existing is None:
            # Tags that come with a new run are one insertion; added later each is a query of its own.
            existing = self._create(writes.name, {**identity, **SOURCE, **_tags(writes)}, self._starts[key])
            writes.tags.clear()
            if len(writes.architecture) <= TAG_LENGTH:
                writes.architecture = ""
            self._log_data(existing[0], key)
        self._known[key] = existing
        if not writes.exists:
            self._mine["latest_run_id"] = existing[0]
        if not writes.exists or writes.status:  # else it may have ended, and only its flags change
            self._open[key] = existing
        return existing

    def _write(self, run: tuple[str, int], writes: Writes) -> None:
        run_id, start_ms = run
        params = [entities.Param(key, value) for key, value in writes.params.items()]
        tags = [entities.RunTag(key, value) for key, value in _tags(writes).items()]
        metrics = [
            entities.Metric(key, value, start_ms + int(1000 * seconds), step)
            for (key, step, seconds), value in writes.metrics.items()
        ]
        while params or tags or metrics:
            self._log(run_id, writes.name, [*metrics[:500], *params[:100], *tags[:100]])
            metrics, params, tags = metrics[500:], params[100:], tags[100:]
        if writes.done:
            self._client.set_terminated(run_id, writes.status, start_ms + int(1000 * writes.seconds))
        elif writes.status == "KILLED":
            self._client.set_terminated(run_id, writes.status)
        if len(writes.architecture) > TAG_LENGTH:
            self._log_architecture(run_id, writes)

    def _log(self, run_id: str, name: str, items: list[Any]) -> None:
        """Write a batch. Of one that the server refuses write each half, so that it takes what it can."""
        kinds = {"metrics": entities.Metric, "params": entities.Param, "tags": entities.RunTag}
        batch = {kind: [item for item in items if isinstance(item, type_)] for kind, type_ in kinds.items()}
        try:
            self._client.log_batch(run_id, **batch)
            self._count_answer()
        except MlflowException as error:
            if error.error_code not in _BAD_CONTENT:
                raise
            if len(items) == 1:
                self._refuse(name, items[0].key, error)
                return
            if self._client.get_run(run_id).info.lifecycle_stage == "deleted":
                raise  # it would refuse everything, one by one
            middle = len(items) // 2
            self._log(run_id, name, items[:middle])
            self._log(run_id, name, items[middle:])

    def _log_architecture(self, run_id: str, writes: Writes) -> None:
        """Write what is too long for a tag; artifacts may have a store of their own, which takes nothing."""
        try:
            self._client.log_text(run_id, writes.architecture, ARTIFACT)
            self._refused.pop(f"{writes.name}/{ARTIFACT}", None)
        except Exception as error:  # whatever a file system or a store of objects throws
            self._refuse(writes.name, ARTIFACT, error)

    def _log_data(self, run_id: str, key: str) -> None:
        """Log the data set of the search's run, of a retrained network or of a row; trials have it by their search."""
        header = self._journal.header()
        kind = key.partition("/")[0]
        if header is None or not header.data_hash or kind not in _CONTEXTS:
            return
        data = header.config.get("data") or {}
        source_path = source_of(self._folder) or str(data.get("source", "data"))
        name = source_path.rstrip("/").rpartition("/")[2][:500] or "data"
        source = json.dumps(data, default=str)
        dataset = entities.Dataset(plain_text(name), header.data_hash[:36], "nasforge", plain_text(source))
        context = entities.InputTag("mlflow.data.context", _CONTEXTS[kind])
        try:
            self._client.log_inputs(run_id, datasets=[entities.DatasetInput(dataset, [context])])
        except MlflowException as error:
            if error.error_code in NO_ENDPOINT:
                self._note(f"MLflow at {self.shown} takes no data sets, so the runs of '{self.name}' name none")
                return
            if error.error_code not in _REFUSED:
                raise
            self._refuse(self.name, "data set", error)

    def _refuse(self, name: str, key: str, error: Exception) -> None:
        place = f"{name}: {key}" if key else name
        self._refused[f"{name}/{key}"] = f"{place}: {reason(error, self.uri)}"

    def _save(self) -> None:
        with self._saving:  # the delivering thread, and the one that no longer waits for it
            self._mine["open"] = {key: list(run) for key, run in dict(self._open).items()}
            write_ids(self._folder, self._ids)


def _tags(writes: Writes) -> dict[str, str]:
    tags = {allowed_key(key): plain_text(value)[:TAG_LENGTH] for key, value in writes.tags.items()}
    if writes.architecture:
        long = len(writes.architecture) > TAG_LENGTH
        tags[ARCHITECTURE] = f"see the artifact {ARTIFACT}" if long else writes.architecture
    return tags
