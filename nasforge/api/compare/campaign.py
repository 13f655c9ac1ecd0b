"""A campaign: the same search with several strategies and seeds, side by side in processes, and continued when killed.

Every search is an ordinary experiment in `runs/<campaign>/<strategy>-s<seed>`; its journal is the truth here too.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from nasforge import registry
from nasforge.api.assembly import NoOptimum, make_evaluator, optimum_of
from nasforge.api.search import search
from nasforge.api.stopping import CONTINUES
from nasforge.core.about import about_of
from nasforge.core.architecture import digest
from nasforge.core.errors import ConfigError, JournalError, NasforgeError, SearchError, StopNow
from nasforge.core.events import Asked, Event, Told, event_to_json, header_of
from nasforge.core.importing import Places, adopt, places
from nasforge.core.protocols import Evaluator, Tabulated
from nasforge.core.say import silent
from nasforge.experiment.experiment import VOLATILE, Experiment
from nasforge.experiment.journal import dumps, has_begun, loads, read_events
from nasforge.experiment.state import differing, replay
from nasforge.settings.experiment import ExperimentConfig, Named, places_of
from nasforge.settings.yaml_file import parse_value
from nasforge.views.groups import label_of
from nasforge.views.trajectory import Trajectory, trajectory

Progress = Callable[[str, int, int], None]
"""Told (name of the search that is done, searches done, searches in all)."""


@dataclass(frozen=True)
class SearchOutcome:
    """One search of a campaign.

    Attributes:
        trajectory: None where it broke before its first event.
        failure: why it ended early, empty if it did not.
    """

    trajectory: Trajectory | None
    failure: str = ""


# --- names -----------------------------------------------------------------------------------------------------------


def parse_strategies(content: str | Sequence[str | Mapping[str, Any] | Named]) -> list[Named]:
    """`random,evolution(sample=3,elitist=true),optuna(sampler=tpe)`, or a list of such texts and mappings.

    Raises:
        ConfigError: not of this form, or one strategy twice.
    """
    parts: list[Any] = _split(content) if isinstance(content, str) else list(content)
    strategies = [_strategy(part) if isinstance(part, str) else Named.parse(part, "strategies") for part in parts]
    if not strategies:
        raise ConfigError(
            "--strategies: name at least one, as in random,evolution(sample=3)", kind="empty", key="strategies"
        )
    labels = [label_of(named) for named in strategies]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f"--strategies: given twice: {', '.join(twice)}", kind="duplicate", key="strategies")
    for named in strategies:
        registry.check_named("strategy", named.name, named.options)
        if ":" in named.name:  # reports a user's module that cannot be imported before anything runs
            registry.get("strategy", named.name)
    return strategies


def _split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _strategy(text: str) -> Named:
    form = re.fullmatch(r"\s*([\w.:]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    options: dict[str, Any] = {}
    for item in _split(form[2] or "") if form else []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip().isidentifier():
            form = None
            break
        options[key.strip()] = parse_value(value.strip())
    if form is None:
        raise ConfigError(
            f"--strategies: '{text}' must look like evolution or evolution(sample=3,elitist=true)",
            kind="type",
            key="strategies",
        )
    return Named(form[1], options)


def folder_name(named: Named, seed: int) -> str:
    """Of a search: `evolution-sample-3-s7`; options that look alike in a name are told apart by a digest."""
    label = label_of(named)
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-._")
    if named.options and (len(plain) > 60 or re.sub(r"[(),=]", "-", label).strip("-") != plain):
        plain = f"{plain[:60]}-{digest(label)[:6]}"
    return f"{plain}-s{seed}"


# --- one search ------------------------------------------------------------------------------------------------------

_FACTS = ("space", "data", "evaluator", "ladder", "recipe", "objectives", "constraints", "targets")
"""Settings that decide what an evaluator answers; it takes the seed of a trial from its report."""

_EVALUATORS: dict[str, Evaluator] = {}


def evaluator_of(config: ExperimentConfig) -> Evaluator:
    """Return the evaluator of a configuration; searches that differ in strategy, seed or budget share one."""
    content = config.to_json()
    key = digest([dumps(content[name]) for name in _FACTS])
    if key not in _EVALUATORS:
        _EVALUATORS[key] = make_evaluator(config)
    return _EVALUATORS[key]


def read_search(folder: Path, name: str | None = None) -> Trajectory:
    """Return a search as its journal has it, with final figures where its evaluator is a table that has them.

    Args:
        folder: of the experiment.
        name: what to call it; None for the folder's name.

    Raises:
        JournalError: no journal there, or it is corrupt.
    """
    return replace(_trajectory(folder, read_events(folder)), experiment=name or folder.name)


def same_search(a: Path, b: Path) -> bool:
    """Return whether two journals tell of one search: the same settings, proposals and results."""
    return _told_by(a) == _told_by(b)


def _told_by(folder: Path) -> list[str]:
    """Header, proposals and results of a journal; without names, versions, and what is reported on the way."""
    events = read_events(folder)
    header = header_of(events)
    config = {key: value for key, value in header.config.items() if key not in VOLATILE}
    kept: list[Event] = [replace(header, schema=1, experiment="", versions={}, config=config)]
    kept += [event for event in events if isinstance(event, (Asked, Told))]
    return [dumps(event_to_json(event, schema=1)) for event in kept]  # as texts, in which NaN is equal to itself


def _trajectory(folder: Path, events: Sequence[Event]) -> Trajectory:
    header = header_of(events)
    final = None
    with suppress(NasforgeError):  # the table has moved: the comparison notes that when it asks for the optimum
        table = _table_of(ExperimentConfig.of_journal(header, folder))
        final = table.final if table is not None and table.final_metric is not None else None
    try:
        return trajectory(events, final, folder)
    except JournalError:
        raise
    except NasforgeError as error:
        raise JournalError(f"{folder}: {error}", kind=error.kind) from None


class _Heard:
    """A tracker that keeps the events of a search, so that its journal need not be read again."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)


def run_search(config: ExperimentConfig) -> SearchOutcome:
    """Run or continue one search; one whose budget is spent is only read.

    Raises:
        StopNow: somebody asked for an end.
        NasforgeError: a mistake that every search of the campaign shares.
    """
    done = _finished(config)
    if done is not None:
        return SearchOutcome(_trajectory(config.folder, done))
    opened: list[Experiment] = []
    heard = _Heard()
    failure = ""
    evaluator = evaluator_of(config)
    try:
        search(config, made_evaluator=evaluator, trackers=[heard], say=silent, on_open=opened.append)
    except SearchError as error:
        failure = str(error)
    if opened and opened[0].stopping:
        raise StopNow(f"stopped; {CONTINUES}")
    if opened:
        return SearchOutcome(_trajectory(config.folder, [*opened[0].journal.events, *heard.events]), failure)
    return SearchOutcome(read_search(config.folder) if has_begun(config.folder) else None, failure)


def _finished(config: ExperimentConfig) -> list[Event] | None:
    """Return the journal of this very search if it is done, else None."""
    if not has_begun(config.folder):
        return None
    events = read_events(config.folder)
    old = header_of(events)
    data_hash = about_of(evaluator_of(config)).data_hash
    content = loads(dumps(config.to_json()))
    moved = places_of(old.config, content) if data_hash else {}
    if old.data_hash != data_hash or differing({**old.config, **moved}, content, VOLATILE):
        return None  # refused when it is opened, with the keys
    state = replay(events, config.folder)
    return events if state.done and state.budget == config.budget else None


def optimum_or_note(config: ExperimentConfig, notes: list[str]) -> float | None:
    """Return the best first objective in the table of this search; None, with a note, if it is unknown."""
    try:
        table = _table_of(config)
        if table is None:
            return None
        notes += about_of(table).notes
        return optimum_of(config, evaluator_of(config))
    except NoOptimum as error:
        notes.append(f"no trials to the optimum: {error}")
    except NasforgeError as error:
        notes.append(f"final figures and evaluations to the optimum of a table are missing: {error}")
    return None


def worst_of(config: ExperimentConfig) -> float | None:
    """Return the worst first objective in the table of a search whose optimum is known; None if it is unknown."""
    table = _table_of(config)
    return None if table is None else table.worst(config.constraints)


def _table_of(config: ExperimentConfig) -> Tabulated | None:
    """Return the evaluator of a search if it is a table; one that measures on images is none, so nothing is loaded."""
    evaluator = None if config.data is not None else evaluator_of(config)
    return evaluator if isinstance(evaluator, Tabulated) else None


# --- all of them -----------------------------------------------------------------------------------------------------

_STOP: Any = None
_AT_WORK = False
"""In a worker: whether it is at a search, and not at sending what came of one."""
_SAFE_PATH, _BY_US = "PYTHONSAFEPATH", "nasforge"


def run_all(configs: Sequence[ExperimentConfig], *, workers: int, progress: Progress) -> list[SearchOutcome]:
    """Run every search, `workers` at a time; one worker is this process itself.

    Raises:
        StopNow: Ctrl-C or SIGTERM; the same call continues.
        SearchError: a worker process was killed.
        NasforgeError: a mistake that is not one search's own.
    """
    if workers == 1:
        outcomes = []
        for config in configs:
            outcomes.append(run_search(config))
            progress(config.name, len(outcomes), len(configs))
        return outcomes
    context = multiprocessing.get_context("spawn")
    with _safe_path():
        stop = context.Event()
    before = set(multiprocessing.active_children())
    arguments = (stop, workers, places())
    with _safe_path(), ProcessPoolExecutor(workers, context, initializer=_begin, initargs=arguments) as pool:
        try:
            return _collect(pool, configs, workers, progress)
        except BaseException as error:
            stop.set()
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()  # its search writes down that it was interrupted
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise SearchError(
                    "a worker process was killed, by the system for want of memory perhaps. Finished trials are kept: "
                    f"{CONTINUES}, with fewer --workers if memory was short",
                    kind="failed",
                    key="workers",
                ) from None
            if isinstance(error, KeyboardInterrupt):
                raise StopNow(f"stopped; {CONTINUES}") from None
            raise


@contextmanager
def _safe_path() -> Iterator[None]:
    """Processes that are started do not put the working folder first on `sys.path`; a file there may hide a module."""
    if os.environ.get(_SAFE_PATH):
        yield
        return
    os.environ[_SAFE_PATH] = _BY_US
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]


def _collect(
    pool: ProcessPoolExecutor, configs: Sequence[ExperimentConfig], workers: int, progress: Progress
) -> list[SearchOutcome]:
    """Hand out a few searches at a time, so that a stop finds little in the queue."""
    outcomes: dict[int, SearchOutcome] = {}
    out: dict[Future[SearchOutcome], int] = {}
    waiting: Iterator[int] = iter(range(len(configs)))
    while len(outcomes) < len(configs):
        while len(out) < 2 * workers and (index := next(waiting, None)) is not None:
            config = configs[index]
            out[pool.submit(_work, config.name, config.to_json(), str(config.runs_dir))] = index
        done, _ = wait(out, return_when=FIRST_COMPLETED)
        for future in done:
            index = out.pop(future)
            outcomes[index] = future.result()
            progress(configs[index].name, len(outcomes), len(configs))
    return [outcomes[index] for index in range(len(configs))]


def _begin(stop: Any, workers: int, places: Places) -> None:
    """In a new worker: share the cores, and end with the driver, however that ends."""
    global _STOP
    _STOP = stop
    adopt(places)
    if os.environ.get(_SAFE_PATH) == _BY_US:
        del os.environ[_SAFE_PATH]  # a user's evaluator may start scripts that import their neighbours
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # outside a search, the driver says when to stop
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # so it does when the terminal was closed
    signal.signal(signal.SIGTERM, _on_terminate)
    driver = multiprocessing.parent_process()

    def follow() -> None:
        if driver is not None:
            driver.join()
            os._exit(1)  # like a kill, which journals survive

    threading.Thread(target=follow, daemon=True).start()


def _on_terminate(number: int, frame: FrameType | None) -> None:
    """Stop a worker that is about to search; a search has a handler of its own.

    A worker that ended while it sends an outcome would keep the lock of the queue, and the others would wait for that
    for ever. It ends by itself soon after the driver has stopped, but not after another worker was killed.
    """
    if _AT_WORK:
        raise StopNow(f"stopped; {CONTINUES}")
    if not _STOP.is_set():
        os._exit(1)


def _work(name: str, content: Mapping[str, Any], runs_dir: str) -> SearchOutcome:
    global _AT_WORK
    _AT_WORK = True
    try:
        if _STOP.is_set():
            raise StopNow(f"stopped; {CONTINUES}")
        return run_search(ExperimentConfig.from_json(name, content, Path(runs_dir)))
    finally:
        _AT_WORK = False
