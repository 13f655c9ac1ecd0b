"""A search that is over, opened again so that its finalists can meet the sealed test part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasforge.core.events import header_of
from nasforge.core.protocols import Tracker
from nasforge.core.trial import Proposal, Result
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import read_events


class _Silent:
    """A strategy that asks for nothing more."""

    def ask(self, number: int) -> Proposal | None:
        return None

    def recall(self, number: int, proposal: Proposal) -> None:
        pass

    def tell(self, number: int, result: Result) -> None:
        pass


def reopen(folder: Path, trackers: Sequence[Tracker] = (), moved: Mapping[str, Any] | None = None) -> Experiment:
    """An existing experiment, locked; it asks for nothing, and deletes nothing: a search that goes on knows its needs.

    Args:
        folder: of the experiment.
        trackers: watch every new event.
        moved: settings of the header that say where the same data lie now; the journal keeps them.

    Raises:
        JournalError: no experiment there, locked, or corrupt.
    """
    header = header_of(read_events(folder))
    header = replace(header, config={**header.config, **(moved or {})})
    experiment = Experiment(folder, header, _Silent(), check=lambda proposal: {}, trackers=trackers, keep_weights=None)
    if moved:
        experiment.note_place_of_data()
    return experiment
