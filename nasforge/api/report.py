"""Write the report of a search or a fit: one page that can be sent to others."""

from __future__ import annotations

from pathlib import Path

from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, ExportError, NasforgeError
from nasforge.core.layout import FIT, REPORT
from nasforge.core.paths import whole_path
from nasforge.core.trust import view
from nasforge.experiment.journal import without_collection
from nasforge.experiment.places import folder_of, kind_of
from nasforge.experiment.state import State
from nasforge.views.importance import importance_drawing
from nasforge.views.network_svg import network_svg
from nasforge.views.picture import write
from nasforge.views.reader import Reader
from nasforge.views.report import Extras, report_page
from nasforge.views.svg import missing
from nasforge.views.winner import winner_and_reference


def report(model: str | Path, *, out: str | Path | None = None, runs_dir: str | Path = "runs") -> Path:
    """Write one page about a search or a fit that needs no network and asks for nothing.

    It works at any time: while the search runs, after a stop, after a failure, without a finished trial. Nothing is
    trained, no module of yours is imported, and the test split stays sealed.

    Args:
        model: the name of a search or a fit in `runs_dir`, or its folder.
        out: file of the page; None: `report.html` in the folder of the search or the fit.
        runs_dir: folder of searches and fits.

    Returns:
        The file.

    Raises:
        JournalError: there is no such search, its journal is damaged, or the fit has not come to its end.
        ConfigError: it is a campaign, which has a page of its own.
        ExportError: the file cannot be written.
    """
    folder = folder_of(model, runs_dir)
    if kind_of(folder) == "campaign":
        raise ConfigError(
            f"'{folder.name}' is a campaign, and a report is about one search. Compare its searches: "
            f"{command_for(folder, 'compare')}",
            kind="unsupported",
            key="model",
        )
    place = folder / REPORT if out is None else whole_path(Path(out))
    if not place.parent.is_dir():
        raise ExportError(
            f"{place}: the folder {place.parent} does not exist. Make it, or name another file",
            kind="missing",
            key="out",
        )
    if (folder / FIT).is_file():
        from nasforge.api.fit.rewrite import rewrite_report

        with view():
            return rewrite_report(folder, place)
    with without_collection():
        reader = Reader(folder)
        reader.refresh()
        page = search_report(reader)
    write(place, page)
    return place


def search_report(reader: Reader, *, importance: bool = True) -> str:
    """Return the report of a search as HTML.

    Args:
        reader: has read the journal.
        importance: compute the importance of decisions, which takes seconds.
    """
    state = reader.state
    assert state is not None  # noqa: S101  (`refresh` raises otherwise)
    with view():
        drawing = _networks(reader.folder, state)
        if importance:
            shares = importance_drawing(state)
        else:
            shares = missing(
                f"Not computed for this page. See it: {command_for(reader.folder, 'show', '--importance')}"
            )
        return report_page(reader, Extras(drawing, shares))


def _networks(folder: Path, state: State) -> str:
    """Draw the winner and its reference, or else the network of the best trial; a sentence where that cannot be."""
    networks, problems = winner_and_reference(folder)
    best = state.best
    if not networks and not problems and best is not None and state.header.config.get("data") is not None:
        from nasforge.views.parts import parts_of_trial  # torch, not before it is needed

        try:
            networks[f"trial {best.number}"] = parts_of_trial(folder, state, best)
        except NasforgeError as error:
            problems.append(f"Not drawn: {error}")
    return (network_svg(networks) if networks else "") + "".join(missing(problem) for problem in problems)
