"""The command `show`: options in, the view that they ask for out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli.fit import show_fit
from nasforge.cli.options import Json, MovedData, MovedDataDir, Name, RunsDir, Trust
from nasforge.cli.output import Outcome
from nasforge.core.errors import ConfigError
from nasforge.core.trust import view


def show(
    name: Name,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="Show one trial with all details.")] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Train that trial again and compare. The exit code is 1 if it differs.")
    ] = False,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the network of that trial into a .html or .png file.")
    ] = None,
    importance: Annotated[
        bool, typer.Option("--importance", help="Show which decisions matter, and write NAME/figures/*.html.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Show N rows of the leaderboard.")] = 10,
    data: MovedData = None,
    data_dir: MovedDataDir = None,
    runs_dir: RunsDir = Path("runs"),
    trust: Trust = False,
    as_json: Json = False,
) -> Outcome:
    """Show a search or a fit, even while it runs: leaderboard, Pareto front, failures, budget.

    [bold]Examples[/bold]

    \b
    nasforge show first
    nasforge show first --trial 7
    nasforge show first --trial 7 --rerun
    nasforge show first --trial 7 --draw network.png
    nasforge show first --importance
    nasforge show campaign
    nasforge show cells
    nasforge show cells/search
    nasforge show first --json
    """
    from nasforge.cli import results as cli_results
    from nasforge.cli.settings import fit_folder, folder_of, moved_data

    place = moved_data(data, data_dir)
    if trial is None and not (importance or rerun or draw or place or "/" in name):
        with view():
            if fit_place := fit_folder(name, runs_dir):
                return show_fit(fit_place)
            if searches := cli_results.campaign_of(name, runs_dir):
                return cli_results.show_campaign(name, runs_dir, searches)
    folder = folder_of(name, runs_dir)
    if place and not rerun and draw is None:
        raise ConfigError("--data, --data-dir: only --rerun and --draw need the data")
    if trial is None and (rerun or draw is not None):
        option, does = ("--rerun", "repeats one trial") if rerun else ("--draw", "draws the network of one trial")
        raise ConfigError(f"{option} {does}: say which with --trial N")
    if rerun and draw is not None:
        raise ConfigError("--rerun repeats a trial and --draw draws its network: one at a time")
    if importance and trial is not None:
        raise ConfigError("--importance is of all trials and --trial shows one: one at a time")
    if rerun and trial is not None:
        return cli_results.rerun(folder, trial, place, trust)
    if draw is not None and trial is not None:
        return cli_results.show_trial(folder, trial, draw, place, trust)
    with view():
        if trial is not None:
            return cli_results.show_trial(folder, trial)
        if importance:
            from nasforge.cli import optuna as cli_optuna

            return cli_optuna.importance(folder)
        return cli_results.show(folder, top)
