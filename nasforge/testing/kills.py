"""Kill a search again and again and count what was lost: the measure behind "it survives a crash".

python -m nasforge.testing.kills FOLDER RUNNER STRATEGY TRIALS                  one driver
python -m nasforge.testing.kills FOLDER RUNNER STRATEGY TRIALS EVENTS SECONDS   one that is killed
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from nasforge import registry
from nasforge.core.events import Asked, Event, Told
from nasforge.core.layout import JOURNAL
from nasforge.experiment.journal import read_events
from nasforge.testing.toys import Planted, toy_config, toy_experiment

NAME = "toy"


@dataclass
class KillCount:
    """Counts of a campaign of kills; all but `kills` and `trials` should be 0.

    Attributes:
        kills: drivers that were killed while the search was unfinished.
        trials: trials of all searches.
        lost: trials whose result was in the journal before a kill and is not, or is another, after.
        twice: trials that ran although their result was in the journal.
        changed: proposals in the journal before a kill that differ after.
        differing: proposals that differ from those of an uninterrupted search (sequential runners only).
    """

    kills: int = 0
    trials: int = 0
    lost: int = 0
    twice: int = 0
    changed: int = 0
    differing: int = 0

    @property
    def clean(self) -> bool:
        """True if nothing went wrong."""
        return self.lost == self.twice == self.changed == self.differing == 0


def drive(folder: Path, runner: str, strategy: str, trials: int) -> None:
    """Start or continue the search in `folder` with one driver until it ends."""
    pruner = "asha" if strategy != "nsga2" else "none"
    config = toy_config(folder, name=NAME, strategy=strategy, budget={"trials": trials}, pruner=pruner)
    evaluator = Planted(seconds=0.01, diary=folder / "diary.txt")
    options = {"cpus": 2} if runner == "ray_tune" else {}
    with toy_experiment(config, max_attempts=1000) as experiment:
        registry.make("runner", runner, options, experiment, evaluator)


def campaign(folder: Path, runner: str, strategy: str, *, trials: int, kills: int, rng: Random) -> KillCount:
    """Kill the driver of one search `kills` times at random moments (fewer if it ends before), then let it finish.

    Args:
        folder: empty.
        runner: registered name.
        strategy: registered name.
        trials: budget of the search.
        kills: how often to kill.
        rng: draws the moments.
    """
    count = KillCount(trials=trials)
    seconds = 0.4 if runner == "local" else 2.0
    for _ in range(kills):
        known, ran = _events(folder), len(_diary(folder))
        # Most kills fall into work, some into what comes before: the journal is read and continued.
        awaited = len(known) + 1 if rng.random() < 0.8 else 0
        ended = _drive_to_end(folder, runner, strategy, trials, awaited, rng.uniform(0, seconds))
        _compare(count, known, _events(folder), _diary(folder)[ran:])
        if ended == 0:
            break
        count.kills += 1
    known, ran = _events(folder), len(_diary(folder))
    if _drive_to_end(folder, runner, strategy, trials) != 0:
        raise RuntimeError(f"somebody else has killed the last driver in {folder}")
    events = _events(folder)
    _compare(count, known, events, _diary(folder)[ran:])
    if runner == "local":
        whole = folder / "whole"
        whole.mkdir()
        drive(whole, runner, strategy, trials)
        count.differing = sum(a != b for a, b in zip(_asked(events), _asked(_events(whole)), strict=True))
    return count


def descendants(process: int) -> Iterator[int]:
    """Return the ids of all processes below a process; Linux only.

    Processes and threads that end meanwhile are left out.
    """
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            children = (thread / "children").read_text()
        except OSError:
            continue
        for child in map(int, children.split()):
            yield child
            yield from descendants(child)


def command_line(process: int) -> str:
    """Return a process's arguments, each ended by a NUL character; empty for one that has ended. Linux only."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def _drive_to_end(folder: Path, runner: str, strategy: str, trials: int, *kill: float) -> int:
    """Run one driver and return its exit status: 0 if it was not killed.

    Args:
        folder: of the search.
        runner: registered name.
        strategy: registered name.
        trials: budget of the search.
        kill: arguments of `_kill_this_process`, if it is to be killed.
    """
    words = [str(folder), runner, strategy, str(trials), *map(str, kill)]
    command = [sys.executable, "-m", "nasforge.testing.kills", *words]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)  # noqa: S603
    try:
        _, errors = driver.communicate(timeout=600)
    finally:
        driver.kill()
        driver.wait()
    if driver.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a driver in {folder} ended with {driver.returncode}: {errors.decode()}")
    return driver.returncode


def _kill_this_process(folder: Path, events: int, seconds: float) -> None:
    """Kill this process from a thread, `seconds` after the journal has this many events.

    Another process might come too late: on a busy machine it can wait for seconds while this one works.
    """

    def kill() -> None:
        while len(_events(folder)) < events:
            time.sleep(0.002)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def _compare(count: KillCount, known: list[Event], events: list[Event], ran: list[int]) -> None:
    told = {event.number: event.result for event in known if isinstance(event, Told)}
    now = {event.number: event.result for event in events if isinstance(event, Told)}
    count.lost += sum(now.get(number) != result for number, result in told.items())
    count.twice += sum(number in told for number in ran)
    count.changed += sum(a != b for a, b in zip(_asked(known), _asked(events), strict=False))


def _asked(events: list[Event]) -> list[Asked]:
    return [event for event in events if isinstance(event, Asked)]


def _events(folder: Path) -> list[Event]:
    path = folder / NAME / JOURNAL
    if not path.exists() or b"\n" not in path.read_bytes():
        return []  # the driver has not got as far as a whole header
    return read_events(folder / NAME)


def _diary(folder: Path) -> list[int]:
    path = folder / "diary.txt"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    if len(sys.argv) > 5:
        _kill_this_process(Path(sys.argv[1]), int(sys.argv[5]), float(sys.argv[6]))
    drive(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
