"""The command `report`: writes the page of a fit, says where it is, opens it."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli import options
from nasforge.cli.output import Outcome, line, say
from nasforge.cli.settings import campaign_of, fit_folder, folder_of
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError
from nasforge.core.paths import whole_path
from nasforge.core.trust import view


def report(
    name: options.Name,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    runs_dir: options.RunsDir = Path("runs"),
    as_json: options.Json = False,
) -> Outcome:
    """Write the report of a fit again and print its path: one HTML page with table, network and mistakes.

    [bold]Examples[/bold]

    \b
    nasforge report cells
    nasforge report cells --open
    """
    folder = fit_folder(name, runs_dir)
    if folder is None:
        campaign = bool(campaign_of(name, runs_dir))
        place = whole_path(runs_dir) / name if campaign else folder_of(name, runs_dir)
        raise ConfigError(
            f"'{name}' is a {'campaign' if campaign else 'search'}, and only a fit has a report page. See its results: "
            f"{command_for(place, 'show')}"
        )
    from nasforge.api.fit.rewrite import rewrite_report

    with view():
        page = rewrite_report(folder)
    line(str(page))
    if show and not webbrowser.open(page.as_uri()):
        say("No browser was found here. Open the page by its path.")
    return Outcome({"report": str(page)})
