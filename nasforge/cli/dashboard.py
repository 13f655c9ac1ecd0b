"""The command `dashboard`: open the web page over a runs folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from nasforge.cli.options import RunsDir
from nasforge.cli.output import Outcome, line
from nasforge.core.errors import JournalError
from nasforge.core.paths import whole_path
from nasforge.dashboards.launch import HOST, PORT, launch


def dashboard(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Begin with this experiment. Default: all of them.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The page has no login, so others should not reach it.")
    ] = HOST,
) -> Outcome:
    """Start the web page of the runs folder: results, searches while they run, trials, comparisons.

    Ctrl-C or SIGTERM ends it.

    [bold]Examples[/bold]

    \b
    nasforge dashboard
    nasforge dashboard first
    nasforge dashboard --runs-dir runs --port 8600
    """
    folder = whole_path(runs_dir)
    if name is not None and not (folder / name).is_dir():
        raise JournalError(
            f"{folder}: no experiment '{name}' here. Give the name of a folder, or leave it out", kind="unknown"
        )
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/{quote(os.fsencode(name or ''))}"
    return Outcome(code=launch(folder, port, host, lambda: line(f"The dashboard is at {address}; Ctrl-C ends it.")))
