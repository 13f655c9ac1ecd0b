"""The searches, fits, campaigns and calibrations of a runs folder, each read as far as its journal goes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from nasforge.api.fit.log import entries_of, finished_of, reading, winner_of
from nasforge.core.errors import NasforgeError
from nasforge.core.layout import FINALISTS, FIT, JOURNAL
from nasforge.core.locks import is_locked
from nasforge.experiment.journal import campaigns_in, experiment_of, experiments_in, fits_in
from nasforge.experiment.state import State
from nasforge.views.reader import Reader
from nasforge.views.results import networks_on_test
from nasforge.views.tables import budget_used, summary
from nasforge.views.trajectory import Trajectory, trajectory_of

KINDS = ("search", "fit", "campaign", "calibration")
STATES = ("running", "stopped", "finished", "broken")
_KEPT = 6
"""Searches whose trials stay in memory; of the others a summary does."""
_DRAWINGS = 200
"""Figures that are kept at most."""
IN_CAMPAIGN = ":"
"""Stands between the names of a campaign and of one of its searches; no name of an experiment has it."""


@dataclass(frozen=True)
class Entry:
    """One folder of the runs folder.

    Attributes:
        name: in addresses: `first`, or `campaign:search`.
        kind: one of `KINDS`; a calibration is found out when its journal is read.
        folder: `runs/first`.
        journal: folder of the journal: the search's within a fit; None for a campaign and a fit that does not search.
    """

    name: str
    kind: str
    folder: Path
    journal: Path | None


@dataclass
class Row:
    """State of an entry, for the first page.

    Attributes:
        entry: what it is about.
        kind: one of `KINDS`.
        state: one of `STATES`, or `reading`.
        facts: further columns: `started`, `elapsed`, `eta`, `budget`, `trials`, `best`, `metric` (of the best), `test`,
            `test_metric`, `strategy`.
        problem: why it cannot be read; empty if it can.
    """

    entry: Entry
    kind: str
    state: str
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def has_address(name: str) -> bool:
    """Return whether an address can hold a name: that of a file which is no UTF-8 comes back as another one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def entry_of(runs_dir: Path, name: str) -> Entry | None:
    """Return the entry of a name; None where the runs folder has none of it."""
    try:
        return _entry_of(runs_dir, name)
    except OSError:  # a name that is too long for a file
        return None


def _entry_of(runs_dir: Path, name: str) -> Entry | None:
    if not has_address(name):
        return None
    campaign, _, search = name.partition(IN_CAMPAIGN)
    for part in (name, campaign, search):
        if part in (".", "..") or "/" in part or "\\" in part or "\0" in part:
            return None
    folder = runs_dir / name
    if not name or (IN_CAMPAIGN in name and not folder.is_dir()):
        if not campaign or not search or not (runs_dir / campaign / search / JOURNAL).is_file():
            return None
        return Entry(name, "search", runs_dir / campaign / search, runs_dir / campaign / search)
    if (folder / FIT).is_file():
        inner = experiment_of(folder)
        return Entry(name, "fit", folder, inner if inner != folder else None)
    if (folder / JOURNAL).is_file():
        return Entry(name, "search", folder, folder)
    if folder.is_dir() and experiments_in(folder):
        return Entry(name, "campaign", folder, None)
    return None


def entries_in(runs_dir: Path) -> list[Entry]:
    """Return everything in a runs folder, the latest changed first."""
    folders = {*experiments_in(runs_dir), *fits_in(runs_dir, searching=False), *campaigns_in(runs_dir)}
    entries = [entry for folder in folders if (entry := entry_of(runs_dir, folder.name)) is not None]
    return sorted(entries, key=lambda entry: (-_changed(entry), entry.name))


def searches_of(entry: Entry) -> list[Entry]:
    """Return the searches of a campaign."""
    return [
        Entry(f"{entry.name}{IN_CAMPAIGN}{folder.name}", "search", folder, folder)
        for folder in experiments_in(entry.folder)
        if has_address(folder.name)
    ]


def _files(entry: Entry) -> list[Path]:
    if entry.kind == "campaign":
        return [search.folder / JOURNAL for search in searches_of(entry)]
    files = [entry.folder / FIT] if entry.kind == "fit" else []
    return files + ([entry.journal / JOURNAL] if entry.journal else [])


def _changed(entry: Entry) -> float:
    return max((stamp[2] for stamp in _stamps(entry)), default=0.0)


def _stamps(entry: Entry) -> list[tuple[int, int, float]]:
    stamps = []
    for file in _files(entry):
        try:
            status = file.stat()
        except OSError:
            continue
        stamps.append((status.st_ino, status.st_size, status.st_mtime))
    return stamps


def runs_now(entry: Entry) -> bool:
    """Return whether a process works on an entry now."""
    if entry.kind == "campaign":
        return any(is_locked(search.folder / "lock") for search in searches_of(entry))
    if entry.kind == "fit" and is_locked(entry.folder / FIT):
        return True
    return entry.journal is not None and is_locked(entry.journal / "lock")


def signature(entry: Entry) -> str:
    """Return a text that changes when the files of an entry do, or when a process begins or ends to work on it."""
    return f"{_stamps(entry)}{runs_now(entry)}"


class Drawings:
    """Figures that were drawn, each kept until what it shows has changed."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: dict[Any, tuple[str, float, Any]] = {}

    def drawn(self, key: Any, version: str, make: Callable[[], Any], *, behind: bool = False) -> Any:
        """Return a figure; a slow one is drawn again only after forty times as long, so that updates stay cheap.

        Args:
            key: of the figure.
            version: of what it shows.
            make: draws it.
            behind: whether what it shows is not complete, so that it is drawn at every change.
        """
        now = time.monotonic()
        known, until, figure = self._kept.get(key, (None, 0.0, None))
        if known == version or (now < until and not behind):
            return figure
        begun = time.process_time()
        figure = make()
        spent = time.process_time() - begun
        if len(self._kept) > _DRAWINGS:
            self._kept.clear()
        self._kept[key] = (version, now + 40 * spent if spent > 0.05 else now, figure)
        return figure


@dataclass
class _Held:
    reader: Reader
    lock: threading.Lock = field(default_factory=threading.Lock)
    drawings: Drawings = field(default_factory=Drawings)


class View:
    """An experiment as a page sees it, locked while the page is made.

    Attributes:
        entry: what it is.
        reader: of its journal, read as far as the time allowed.
        state: its folded state.
        running: whether a process works on it.
    """

    def __init__(self, entry: Entry, held: _Held, *, running: bool) -> None:
        """Make the view of an experiment whose journal has its first line."""
        assert held.reader.state is not None  # noqa: S101  (`refresh` raises otherwise)
        self.entry, self.reader, self.running = entry, held.reader, running
        self.state: State = held.reader.state
        self._drawings = held.drawings

    def drawn(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Return a figure, see `Drawings.drawn`."""
        return self._drawings.drawn(key, self.reader.version, make, behind=self.reader.behind)


class Courses(NamedTuple):
    """The courses of several searches, as far as they are read.

    Attributes:
        searches: those that are read.
        unread: number of searches that are not read yet.
        broken: search -> why it cannot be read.
        version: a text that changes with any of them.
    """

    searches: list[Trajectory]
    unread: int
    broken: dict[str, str]
    version: str


class Library:
    """The readers and summaries of a runs folder, shared by all pages."""

    def __init__(self, runs_dir: Path, reading_s: float = 1.0) -> None:
        """Read nothing yet.

        Args:
            runs_dir: the runs folder.
            reading_s: seconds that a page waits for a journal; it shows what was read until then.
        """
        self.runs_dir = runs_dir
        self.reading_s = reading_s
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._rows: dict[str, tuple[str, Row]] = {}
        self._courses: dict[str, tuple[str, Trajectory]] = {}
        self.drawings = Drawings()
        self._lock = threading.Lock()

    def _hold(self, entry: Entry) -> _Held:
        assert entry.journal is not None  # noqa: S101  (asked by `view` only)
        with self._lock:
            held = self._held.get(entry.name)
            if held is None or held.reader.folder != entry.journal:
                held = self._held[entry.name] = _Held(Reader(entry.journal))
            self._held.move_to_end(entry.name)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)
            return held

    @contextmanager
    def view(self, entry: Entry, seconds: float | None = None) -> Iterator[View]:
        """Read what is new of an experiment, and keep it from changing meanwhile.

        Raises:
            JournalError: its journal cannot be read.
        """
        held = self._hold(entry)
        with held.lock:
            held.reader.refresh(self.reading_s if seconds is None else seconds)
            yield View(entry, held, running=runs_now(entry))

    def rows(self, entries: list[Entry], seconds: float | None = None) -> list[Row]:
        """Return the states of entries. Those that cannot be read in time have the state `reading`."""
        end = time.monotonic() + (self.reading_s if seconds is None else seconds)
        listed = []
        for entry in entries:
            now = signature(entry)
            known, row = self._rows.get(entry.name, ("", None))
            if row is None or known != now:
                left = end - time.monotonic()
                if left <= 0:
                    row = row or Row(entry, entry.kind, "reading")
                else:
                    row = self._row(entry, left)
                    if row.state != "reading":
                        self._rows[entry.name] = (now, row)
            listed.append(row)
        return listed

    def courses(self, entries: Sequence[Entry], seconds: float | None = None) -> Courses:
        """Return the courses of searches, for a comparison; campaigns stand for all of their searches.

        Args:
            entries: searches, fits that search, campaigns.
            seconds: stop reading after about so long; None for `reading_s`.
        """
        end = time.monotonic() + (self.reading_s if seconds is None else seconds)
        inner = [one for entry in entries for one in (searches_of(entry) if entry.kind == "campaign" else [entry])]
        searches, unread, broken, versions = list[Trajectory](), 0, dict[str, str](), list[str]()
        for entry in inner:
            now = signature(entry)
            known, course = self._courses.get(entry.name, ("", None))
            if course is None or known != now:
                left = end - time.monotonic()
                if left <= 0:
                    unread += 1
                    continue
                try:
                    course = self._course(entry, now, left)
                except NasforgeError as error:
                    broken[entry.name] = str(error)
                    continue
            if course is None:
                unread += 1
                continue
            searches.append(course)
            versions.append(entry.name + now)
        return Courses(searches, unread, broken, "".join(versions))

    def _course(self, entry: Entry, now: str, seconds: float) -> Trajectory | None:
        """Read one search; None where it is not read in time. Its row comes with it, so that nothing is read twice."""
        with self.view(entry, seconds) as view:
            reader = view.reader
            if reader.behind or reader.header is None:
                return None
            course = trajectory_of(view.state, reader.header)
            course = replace(course, experiment=entry.name)
            if entry.kind == "search":
                self._rows[entry.name] = (now, Row(entry, kind_of(view), state_of(view), facts_of(view)))
        self._courses[entry.name] = (now, course)
        return course

    def _row(self, entry: Entry, seconds: float) -> Row:
        try:
            if entry.kind == "campaign":
                return self._campaign(entry, seconds)
            if entry.journal is None:
                return Row(entry, "fit", "running" if runs_now(entry) else "stopped", fit_facts(entry.folder))
            with self.view(entry, seconds) as view:
                if view.reader.behind:
                    return Row(entry, entry.kind, "reading")
                row = Row(entry, kind_of(view), state_of(view), facts_of(view))
            if entry.kind == "fit" and "test" in row.facts and row.state == "stopped":
                row.state = "finished"
            return row
        except NasforgeError as error:
            return Row(entry, entry.kind, "broken", problem=str(error))
        except Exception as error:  # damaged files may hold anything, and the other rows must stay
            return Row(entry, entry.kind, "broken", problem=f"It cannot be read ({type(error).__name__}: {error}).")

    def _campaign(self, entry: Entry, seconds: float) -> Row:
        rows = self.rows(searches_of(entry), seconds)
        states = [row.state for row in rows]
        if "reading" in states:
            return Row(entry, "campaign", "reading")
        state = next((s for s in ("running", "stopped", "broken") if s in states), "finished")
        started = [row.facts["started"] for row in rows if row.facts.get("started")]
        used = [row.facts["budget"] for row in rows if row.facts.get("budget") is not None]
        facts: dict[str, Any] = {
            "strategy": ", ".join(sorted({str(row.facts["strategy"]) for row in rows if "strategy" in row.facts})),
            "searches": len(rows),
            "trials": sum(row.facts.get("trials", 0) for row in rows),
            "started": min(started, default=None),
            "elapsed": sum(row.facts.get("elapsed") or 0.0 for row in rows) or None,
            "budget": sum(used) / len(rows) if used else None,
        }
        best = [row for row in rows if row.facts.get("best") is not None]
        if len({row.facts["metric"] for row in best}) == 1:
            sign = 1 if best[0].facts["maximise"] else -1
            first = max(best, key=lambda row: sign * row.facts["best"])
            facts |= {key: first.facts[key] for key in ("best", "metric", "maximise")}
        return Row(entry, "campaign", state, facts)


def kind_of(view: View) -> str:
    """`fit`, `calibration` or `search`."""
    return "calibration" if view.state.is_calibration else view.entry.kind


def state_of(view: View) -> str:
    """`running`, `finished` (its budget is used up, or its result was tested) or `stopped`."""
    if view.running:
        return "running"
    return "finished" if fit_result(view.entry) else view.reader.standing


def facts_of(view: View) -> dict[str, Any]:
    """Return the columns of the first page."""
    state, times = view.state, view.reader.times
    goal, best, used = state.objectives[0], state.best, budget_used(state)
    about = summary(state)
    facts: dict[str, Any] = {
        "space": about["space"],
        "strategy": about["strategy"],
        "data": about["data"],
        "counts": state.counts(),
        "trials": len(state.trials),
        "started": times.began,
        "elapsed": view.reader.elapsed,
        "eta": view.reader.left,
        "budget": None if view.entry.kind == "fit" else used,  # what limits a fit is its time
        "metric": goal.metric,
        "maximise": goal.maximise,
        "best": None if best is None else best.metrics.get(goal.metric),
    }
    outcome = fit_facts(view.entry.folder) if view.entry.kind == "fit" else {}
    tested = networks_on_test(state, view.entry.folder / FINALISTS) if state.tests else []
    won = next((row for row in tested if row["won"]), None)
    if won is not None:
        facts |= {"test": won["value"], "test_metric": won["metric"]}
    return facts | outcome  # the search of a fit may have been retrained later: its page is about the fit's network


def fit_result(entry: Entry) -> Mapping[str, Any] | None:
    """Return what a finished fit found; None for anything else.

    Raises:
        JournalError: its log cannot be read.
    """
    finished = finished_of(entries_of(entry.folder)) if entry.kind == "fit" else None
    return None if finished is None else finished["content"]


def fit_facts(folder: Path) -> dict[str, Any]:
    """Return the columns of the first page that a fit's log has."""
    lines = entries_of(folder)
    facts: dict[str, Any] = {}
    with reading(folder):
        if lines:
            facts |= {"started": lines[0]["at"], "elapsed": lines[-1]["used"]}
            facts["data"] = lines[0]["inputs"]["source"]  # the search has a decoded copy
        finished = finished_of(lines)
        if finished is not None:
            winner = winner_of(finished["content"])
            facts |= {"test": float(winner["test"]["accuracy"]), "test_metric": "test/accuracy", "eta": None}
    return facts
