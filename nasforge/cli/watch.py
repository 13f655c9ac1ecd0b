"""The command `watch`: follows a search that another process drives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nasforge.cli import options
from nasforge.cli.live import Watch
from nasforge.cli.output import Outcome, line, log, state_json
from nasforge.cli.summary import print_summary
from nasforge.core.command_line import command_for
from nasforge.core.trial import Trial
from nasforge.core.trust import view
from nasforge.experiment.journal import fit_of, search_name
from nasforge.experiment.places import search_of
from nasforge.experiment.state import State
from nasforge.views.reader import Reader
from nasforge.views.results import remarks
from nasforge.views.texts import seconds_text

_LOOK_S = 1.0
_SILENT_S = 30.0
"""A journal whose lock is not seen, as on some shared folders, belongs to a running search if it grew so recently."""


def watch(name: options.Name, runs_dir: options.RunsDir = Path("runs"), as_json: options.Json = False) -> Outcome:
    """Follow a search that another process or another machine runs, until it ends.

    It only reads the journal. Ctrl-C stops watching, not the search.

    [bold]Examples[/bold]

    \b
    nasforge watch first
    nasforge watch first --runs-dir /shared/runs
    """
    with view():
        folder = search_of(name, runs_dir)
        reader = Reader(folder)
        reader.refresh()
        state = follow(reader, Watch(log()))
        print_summary(state, remarks=remarks(state), name=search_name(folder), standing=reader.standing)
        line(f"See all of it: {command_for(fit_of(folder) or folder, 'show')}")
        if failed := state.failures():
            number = failed[-1].number
            line(f"See why trial {number} failed: {command_for(folder, 'show', '--trial', str(number), '--log')}")
        return Outcome({**state_json(state), "counts": state.counts()})


def follow(
    reader: Reader, screen: Watch, sleep: Callable[[float], None] = time.sleep, now: Callable[[], float] = time.time
) -> State:
    """Show a search until it ends, and return its last state.

    Args:
        reader: has read the journal once.
        screen: where it is shown.
        sleep: waits between two looks at the journal.
        now: the time, in seconds since the epoch.
    """
    state = _state(reader)
    closed = _Closed(state)
    held = reader.running
    screen.attach(state, standing(reader), search_name(reader.folder))
    with screen.shown():
        while not _has_ended(reader, held, now()):
            sleep(_LOOK_S)
            held = held or reader.running
            reader.refresh()
            if state is not reader.state:  # the file was replaced
                state = _state(reader)
                closed = _Closed(state)
            screen.attach(state, standing(reader), search_name(reader.folder))
            for trial in closed.new(state):
                screen.tell(trial)
    return state


def standing(reader: Reader) -> str:
    """Return the elapsed time of a search, and how long it still takes, as far as that is known."""
    texts = [] if reader.elapsed is None else [f"{seconds_text(reader.elapsed)} elapsed"]
    texts += [] if reader.left is None else [f"about {seconds_text(reader.left)} left"]
    return ", ".join(texts)


def _state(reader: Reader) -> State:
    assert reader.state is not None  # noqa: S101  (`refresh` raises otherwise)
    return reader.state


def _has_ended(reader: Reader, held: bool, now: float) -> bool:
    """Return whether no process works on the search any more.

    Args:
        reader: of the journal.
        held: whether the lock of a driver was ever seen.
        now: in seconds since the epoch.
    """
    if reader.running:
        return False
    state = _state(reader)
    if held or state.done:
        return not reader.refresh()  # the driver's last lines may have come after the last look
    return reader.times.latest is None or now - reader.times.latest > _SILENT_S


class _Closed:
    """Which trials have been closed since the last look."""

    def __init__(self, state: State) -> None:
        self._open = {trial.number for trial in state.open_trials}
        self._next = len(state.trials)

    def new(self, state: State) -> Iterator[Trial]:
        """Yield the trials that were closed since the last call."""
        self._open |= set(range(self._next, len(state.trials)))
        self._next = len(state.trials)
        closed = sorted(number for number in self._open if state.trials[number].result is not None)
        self._open -= set(closed)
        return (state.trials[number] for number in closed)
