"""Folders of searches, fits and campaigns, by name in a runs folder or by path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from nasforge.core.checks import cut
from nasforge.core.command_line import command_for, quoted, runs_dir_option
from nasforge.core.errors import ConfigError, JournalError, did_you_mean
from nasforge.core.layout import FIT, JOURNAL
from nasforge.core.paths import whole_path
from nasforge.experiment.journal import campaigns_in, experiment_of, experiments_in, fit_of, fits_in

LONGEST_NAME = 255
"""Bytes that the name of a file may have."""
COMPARISON = "comparison.json"
"""The result of a comparison, in the folder of a campaign."""


def kind_of(folder: Path) -> Literal["fit", "search", "campaign"] | None:
    """Return what a folder holds; None for nothing of NASForge. A comparison of other searches is a campaign too."""
    if (folder / FIT).is_file():
        return "fit"
    if (folder / JOURNAL).is_file():
        return "search"
    return "campaign" if (folder / COMPARISON).is_file() or experiments_in(folder) else None


def places_of(name: str | Path, runs_dir: str | Path) -> list[Path]:
    """Return the absolute paths that a name may stand for: in the runs folder first, then from the working folder.

    Raises:
        ConfigError: no file can have this name.
    """
    inside, path = whole_path(Path(runs_dir, name)), whole_path(name)
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise ConfigError(
            f"'{cut(str(name))}': no file has a name of more than {LONGEST_NAME} bytes; name an experiment or a folder",
            kind="invalid",
            key="name",
        )
    return [place for place in dict.fromkeys((inside, path)) if place != whole_path(runs_dir)]


def folder_of(name: str | Path, runs_dir: str | Path = "runs") -> Path:
    """Return the folder of a search, a fit or a campaign.

    Args:
        name: in the runs folder, such as `first`, or of the search in a fit, `cells/search`; or a path.
        runs_dir: the runs folder.

    Raises:
        JournalError: there is none of this name; says which there are.
    """
    places = places_of(name, runs_dir)
    for place in places:
        if kind_of(place):
            return place
    inside = whole_path(runs_dir)
    known = [path.name for path in (*experiments_in(inside), *fits_in(inside), *campaigns_in(inside))]
    why = next((f" (the folder has no file {JOURNAL})" for place in places if place.is_dir()), "")
    raise JournalError(
        f"no experiment '{name}' in {runs_dir}/{why}; {did_you_mean(str(name), known)}", kind="unknown", key="name"
    )


def owner_of(name: str | Path, runs_dir: str | Path = "runs") -> Path:
    """Return the folder of a search or of a fit, also where the search in a fit is named. Arguments as in `folder_of`.

    Raises:
        ConfigError: it is a campaign.
        JournalError: there is none of this name; says which there are.
    """
    folder = folder_of(name, runs_dir)
    if kind_of(folder) == "campaign":
        inner = experiments_in(folder)
        if not inner:
            raise ConfigError(
                f"'{name}' is a comparison of other searches: {folder / COMPARISON}. Name a search", kind="unsupported"
            )
        raise ConfigError(
            f"'{name}' is a campaign of {len(inner)} searches. Name one of them: "
            f"{quoted([inner[0].name, *runs_dir_option(folder)])}; or see all: {command_for(folder, 'show')}",
            kind="conflict",
        )
    return fit_of(folder) or folder


def search_of(name: str | Path, runs_dir: str | Path = "runs") -> Path:
    """Return the folder of a search; of a fit that of its search. Arguments as in `folder_of`.

    Raises:
        ConfigError: it is a campaign, or a fit that has not begun to search.
        JournalError: there is none of this name; says which there are.
    """
    owner = owner_of(name, runs_dir)
    folder = experiment_of(owner)
    if not (folder / JOURNAL).is_file():
        raise ConfigError(
            f"'{name}' is a fit that has not searched. See what it did: {command_for(owner, 'show')}", kind="empty"
        )
    return folder
