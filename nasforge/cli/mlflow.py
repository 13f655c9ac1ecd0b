"""The command `mlflow`: start MLflow's page for a store and print the link to a search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli.options import RunsDir
from nasforge.cli.output import Outcome, line
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, TrackingError
from nasforge.core.tracking_uri import NO_TRACKING, chosen_uri
from nasforge.core.trust import view


def mlflow(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Name of a search, fit or campaign. Default: all of them.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow server or database. Default: where the search was tracked.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page on this machine.")] = 5000,
    runs_dir: RunsDir = Path("runs"),
) -> Outcome:
    """Start MLflow's page on this machine and print the link to a search, best trial first. Ctrl-C or SIGTERM ends it.

    If the runs are on an MLflow server, only the link is printed.

    [bold]Examples[/bold]

    \b
    nasforge mlflow
    nasforge mlflow first
    nasforge mlflow first --port 5001
    """
    from nasforge.core.paths import whole_path
    from nasforge.core.tracking_uri import tracking_uri as whole_uri
    from nasforge.experiment.places import folder_of, kind_of, search_of
    from nasforge.views.mlflow.page import link
    from nasforge.views.mlflow.position import destination, destination_of_comparison, ids_of, read_ids
    from nasforge.views.mlflow.server import address_of, served

    folder = None if name is None else folder_of(name, runs_dir)
    campaign = folder is not None and kind_of(folder) == "campaign"
    if name is not None and not campaign:
        folder = search_of(name, runs_dir)
    place = whole_path(runs_dir) if folder is None else folder.parent
    experiment = key = ""
    if folder is None:
        chosen = chosen_uri(tracking_uri)
        if chosen == NO_TRACKING:
            raise TrackingError(
                "tracking is off, so there is no page. Name a store: --tracking-uri URI",
                kind="missing",
                key="tracking_uri",
            )
        uri = whole_uri(chosen, place)
    else:
        with view():
            stored = destination_of_comparison if campaign else destination
            uri = whole_uri(stored(folder, tracking_uri), place)
            mine = ids_of(read_ids(folder), uri, place)
        experiment, key = mine["experiment_id"], mine["key"] if mine["layout"] == "flat" else ""
        if not experiment:
            raise TrackingError(
                f"MLflow knows nothing of '{name}' yet. Run: {command_for(folder, 'track')}", kind="missing"
            )
    server = address_of(uri)
    if server:
        line(f"MLflow: {link(server, experiment, key)}")
        return Outcome()
    with served(uri, port) as (address, process):
        line(f"MLflow: {link(address, experiment, key)}")
        line("Ctrl-C ends it.")
        sys.stdout.flush()  # also to a file or a pipe, since the command goes on
        try:
            code = process.wait()
        except KeyboardInterrupt:  # this is how it ends, as the dashboard does
            return Outcome()
    if code > 0:
        raise ConfigError(f"MLflow's server has ended with exit code {code}. Run: mlflow server --help", kind="failed")
    return Outcome()
