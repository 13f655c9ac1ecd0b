"""The command `track`: deliver an experiment to MLflow, or to a storage of Optuna."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli.options import Json, Name, RunsDir
from nasforge.cli.output import Outcome
from nasforge.core.errors import ConfigError
from nasforge.core.trust import view


def track(
    name: Name,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow server or database. Default: the one of the search.")
    ] = None,
    optuna: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Write an Optuna study into this storage instead.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Json = False,
) -> Outcome:
    """Send MLflow everything of an experiment that it has not received, and the figures.

    [bold]Examples[/bold]

    \b
    nasforge track first
    nasforge track first --tracking-uri http://mlflow.example.org:5000
    nasforge track first --optuna sqlite:///runs/optuna.db
    """
    from nasforge.cli import results as cli_results
    from nasforge.cli.settings import folder_of

    if optuna is not None:
        from nasforge.cli import optuna as cli_optuna

        if tracking_uri is not None:
            raise ConfigError("--optuna writes a storage of Optuna, --tracking-uri names MLflow's: one at a time")
        with view():
            return cli_optuna.write_study(folder_of(name, runs_dir), optuna)
    with view():
        return cli_results.track(folder_of(name, runs_dir), tracking_uri)
