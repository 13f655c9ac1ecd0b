"""The command `report`: writes the page of a search or a fit, says where it is, opens it."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli import options
from nasforge.cli.output import Outcome, line, say
from nasforge.experiment.places import folder_of


def report(
    name: options.Name,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page to this file. Default: report.html in the folder of NAME."),
    ] = None,
    runs_dir: options.RunsDir = Path("runs"),
    as_json: options.Json = False,
) -> Outcome:
    """Write the report of a search or a fit and print its path: one HTML page to read, send and keep.

    It shows the outcome and its cost, the front, the test results, the networks and the mistakes. It also works while
    the search runs.

    [bold]Examples[/bold]

    \b
    nasforge report first
    nasforge report first --open
    nasforge report cells --out cells.html
    """
    folder = folder_of(name, runs_dir)
    from nasforge.api.report import report as write_report  # what draws takes a while to import

    page = write_report(folder, out=out)
    line(str(page))
    if show and not webbrowser.open(page.as_uri()):
        say("No browser was found here. Open the page by its path.")
    return Outcome({"report": str(page)})
