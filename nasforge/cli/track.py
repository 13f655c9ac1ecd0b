"""The command `track`: deliver an experiment to MLflow, or to a storage of Optuna."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasforge.cli.options import Json, Name, RunsDir
from nasforge.cli.output import Outcome, line, log, say
from nasforge.core.command_line import command_for, quoted
from nasforge.core.errors import ConfigError
from nasforge.core.trust import view
from nasforge.core.uri import with_absolute_file, without_secrets
from nasforge.experiment.journal import fit_of, search_name
from nasforge.experiment.places import folder_of, kind_of, search_of
from nasforge.experiment.state import load_state

if TYPE_CHECKING:
    from rich.progress import TaskID


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
    """Send MLflow everything of a search, fit or campaign that it has not received, and the figures.

    [bold]Examples[/bold]

    \b
    nasforge track first
    nasforge track first --tracking-uri http://mlflow.example.org:5000
    nasforge track first --optuna sqlite:///runs/optuna.db
    """
    if optuna is not None:
        if tracking_uri is not None:
            raise ConfigError(
                "--optuna writes a storage of Optuna, --tracking-uri names MLflow's: one at a time",
                kind="conflict",
                key="tracking_uri",
            )
        with view():
            return _write_study(search_of(name, runs_dir), optuna)
    folder = folder_of(name, runs_dir)
    if kind_of(folder) == "campaign":
        return _deliver_campaign(folder, tracking_uri)
    return _deliver(search_of(name, runs_dir), tracking_uri)


def _deliver(folder: Path, uri: str | None) -> Outcome:
    """Catch MLflow up."""
    from nasforge.api.track import track as deliver

    fit = fit_of(folder) or folder
    name = fit.name
    option = [] if uri is None else ["--tracking-uri", uri]
    with _progress(name, "events", command_for(fit, "track", *option)) as progress:
        count = deliver(folder, uri, say=say, progress=progress)
    line(f"{count} events, rows and files of '{name}' delivered." if count else f"MLflow has all of '{name}' already.")
    line(f"Look at them: {command_for(fit, 'mlflow', *option)}")
    return Outcome({"experiment": name, "delivered": count})


def _deliver_campaign(folder: Path, uri: str | None) -> Outcome:
    """Send MLflow the result of a campaign."""
    from nasforge.api.track import track_comparison

    option = [] if uri is None else ["--tracking-uri", uri]
    with _progress(folder.name, "runs", command_for(folder, "track", *option)) as progress:
        count = track_comparison(folder, uri, say=say, progress=progress)
    line(f"{count} runs of '{folder.name}' delivered." if count else f"MLflow has all of '{folder.name}' already.")
    line(f"Look at them: {command_for(folder, 'mlflow', *option)}")
    return Outcome({"experiment": folder.name, "delivered": count})


@contextmanager
def _progress(name: str, unit: str, command: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    from nasforge.views.mlflow.progress import ProgressLines

    console = log()
    if not console.is_terminal:
        yield ProgressLines(say, name, unit, command)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    counts = TextColumn("{task.completed:,} of {task.total:,}")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=40), counts, TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        tasks: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(unit, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield show


def _write_study(folder: Path, storage: str) -> Outcome:
    """Return an experiment for optuna-dashboard."""
    from nasforge.views import optuna_study

    count = optuna_study.write_study(load_state(folder), storage)
    shown = without_secrets(with_absolute_file(storage))
    line(f"{count} trials of '{search_name(folder)}' written to {shown}.")
    line(f"Look at them: pip install optuna-dashboard; optuna-dashboard {quoted([shown])}")
    return Outcome({"experiment": search_name(folder), "optuna": shown, "trials": count})
