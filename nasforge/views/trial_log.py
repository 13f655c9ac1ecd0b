"""Log of one trial: its lines of the journal, and the tracebacks of its attempts. The other trials are not parsed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasforge.core.errors import JournalError
from nasforge.core.events import (
    FAULT,
    KILL,
    REQUEST,
    Asked,
    Checked,
    Event,
    Header,
    Interrupted,
    Reported,
    Started,
    Told,
)
from nasforge.core.layout import ARTIFACTS, JOURNAL
from nasforge.core.paths import file_inside
from nasforge.core.trial import Score, TrainShared
from nasforge.experiment.journal import parse, search_name
from nasforge.experiment.state import State
from nasforge.views.tables import steps_of
from nasforge.views.texts import excess_text

TRACEBACK = "traceback.txt"
"""File in the folder of an attempt that raised an exception."""
_LONGEST = 20_000
"""Characters of a traceback that are shown: its last ones."""


@dataclass(frozen=True)
class LogLine:
    """One event of a trial.

    Attributes:
        at: when it was written, in seconds since the epoch (UTC); None in journals of schema 1.
        event: its kind, as in the journal.
        text: what happened.
        metrics: what was measured; empty for most events.
    """

    at: float | None
    event: str
    text: str
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {"at": self.at, "event": self.event, "text": self.text, "metrics": dict(self.metrics)}


_INTERRUPTED = {
    REQUEST: "the driver stopped on request",
    KILL: "the process of the search ended or was killed",
    FAULT: "its worker ended, or its GPU failed",
}


def log_of(folder: Path, number: int) -> list[LogLine]:
    """Return what happened to a trial, in the order of the journal.

    Args:
        folder: of the experiment.
        number: of the trial.

    Raises:
        JournalError: no journal, no such trial, or a line of this trial is corrupt.
    """
    mine = re.compile(rb'"number"\s*:\s*%d\b' % number)
    path = folder / JOURNAL
    lines: list[LogLine] = []
    unit = ""
    try:
        with path.open("rb") as file:
            for place, line in enumerate(file, 1):
                if not line.endswith(b"\n") or (place > 1 and mine.search(line) is None):
                    continue
                event, at = parse(path, place, line)
                if isinstance(event, Header):
                    unit = steps_of(State(event, folder)).removesuffix("s") or "step"
                elif getattr(event, "number", None) == number:  # not another number inside of the line
                    lines.append(_line(event, at, unit))
    except FileNotFoundError:
        raise JournalError(f"{folder}: no experiment here ({path.name} is missing)", kind="missing") from None
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}", kind="unreadable") from None
    if not lines:
        raise JournalError(f"'{search_name(folder)}' has no trial {number}", kind="unknown", key="trial")
    return lines


def tracebacks(folder: Path, number: int) -> list[tuple[int, str]]:
    """Return the attempts of a trial that left a traceback, each with its text; the end of a long one.

    A file that a link leads out of the experiment's folder is left out.
    """
    kept = []
    for path in (folder / ARTIFACTS / str(number)).glob(f"attempt-*/{TRACEBACK}"):
        attempt = path.parent.name.removeprefix("attempt-")
        if attempt.isdecimal() and (file := file_inside(folder, path.relative_to(folder))) is not None:
            text = file.read_text(encoding="utf-8", errors="replace")
            kept.append((int(attempt), text[-_LONGEST:]))
    return sorted(kept)


def _line(event: Event, at: float | None, unit: str) -> LogLine:
    text, metrics = "", dict[str, float]()
    match event:
        case Asked():
            text = _proposed(event)
        case Checked():
            text, metrics = event.verdict, dict(event.costs)
        case Started():
            text = f"attempt {event.attempt} begins"
        case Reported():
            stop = ", and the pruner stops it" if event.decision == "stop" else ""
            text, metrics = f"{unit} {event.step} of attempt {event.attempt}{stop}", dict(event.metrics)
        case Told():
            text, metrics = event.result.status, dict(event.result.metrics)
            if event.result.error is not None:
                error = event.result.error
                text = "; ".join(filter(None, [f"failed by {error.cause}: {error.message}", error.advice]))
            for limit, excess in event.result.violations.items():
                text += f"; {excess_text(limit, excess)}"
        case Interrupted():
            text = f"attempt {event.attempt} ends: {_INTERRUPTED[event.cause]}"
    return LogLine(at, event.kind, text, metrics)


def _proposed(event: Asked) -> str:
    """Return how a trial was proposed, in words."""
    proposal = event.proposal
    if isinstance(proposal, TrainShared):
        return "the training of a supernet is proposed"
    origin = proposal.origin
    parents = " and ".join(map(str, origin.parents)) if origin else ""
    words = [origin.strategy, origin.operator, f"of trial {parents}" if parents else ""] if origin else []
    made = " ".join(filter(None, words))
    text = "a network is proposed"
    if isinstance(proposal, Score):
        text = f"scores of {len(proposal.architectures)} networks are proposed"
    elif proposal.weights:
        text = f"a network is proposed with the weights {proposal.weights.path}"
    return f"{text} ({made})" if made else text
