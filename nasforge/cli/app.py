"""The command line. Thin: options in, the public API, then tables for people or one JSON object (`--json`)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text
from typer.exceptions import TyperException

from nasforge.cli.process import check_working_folder, safe_streams  # first, for it leaves a deleted working folder

# isort: split
from nasforge.api.search import stops_ignored, terminable
from nasforge.cli import output
from nasforge.cli.calibrate import calibrate
from nasforge.cli.compare import compare
from nasforge.cli.fit import fit, show_fit
from nasforge.cli.inspect import inspect
from nasforge.cli.list import list_all
from nasforge.cli.options import Json, MovedData, MovedDataDir, Name, RunsDir, Trust
from nasforge.cli.output import Outcome
from nasforge.cli.predict import predict
from nasforge.cli.report import report
from nasforge.cli.retrain import retrain
from nasforge.cli.search import search
from nasforge.cli.tune import tune
from nasforge.core.checks import cut
from nasforge.core.command_line import command_line
from nasforge.core.errors import ConfigError, NasforgeError
from nasforge.core.trust import view
from nasforge.experiment.journal import fit_of

app = typer.Typer(
    name="nasforge",
    help="Neural architecture search: search, look, retrain, export. Every command has examples in its --help.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

_CONTINUED = ("fit", "search", "tune", "calibrate", "compare", "retrain", "track")
"""Commands that go on where they were stopped."""
_KEPT: list[ExitStack] = []
"""Handlers of signals that stay; without a reference Python would restore the former ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (nothing to show), 2 (a user's mistake), 130 (stopped)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wants_json = "--json" in given
    with safe_streams() as stream, ExitStack() as signals:
        signals.enter_context(terminable())
        with output.only_json(wants_json) as stdout:
            outcome = _run(given)
            if outcome.code == output.STOPPED:
                signals.enter_context(stops_ignored())  # it is stopping, and says so once
                if arguments is None:
                    _KEPT.append(signals.pop_all())  # to the end of the process
            if outcome.code == output.STOPPED and not outcome.content:
                outcome = _interrupted(given)
            unwritten = None
            if wants_json and outcome.content:
                content = outcome.content
                if isinstance(content, Mapping) and outcome.more:
                    content = {**content, **outcome.more()}
                unwritten = output.write_json(content, stdout)
        stream.flush()
        return _unwritable(unwritten or stream.error, outcome.code)


def _unwritable(error: OSError | None, code: int) -> int:
    """Exit code after an attempt to write the answer to stdout. A reader that has gone, as `head`, needs no message."""
    if error is not None and not isinstance(error, BrokenPipeError):
        _failed(f"the answer cannot be written to stdout: {error.strerror}. Make room, then run the same command")
    return code or int(error is not None)


def _run(arguments: list[str]) -> Outcome:
    try:
        check_working_folder()
        found = app(args=arguments, prog_name="nasforge", standalone_mode=False, obj=arguments)
        return found if isinstance(found, Outcome) else Outcome(code=int(found or 0))
    except TyperException as error:
        message = error.format_message().rstrip(".")
        command = next((word for word in arguments if not word.startswith("-")), "")
        known = [command] if command in _names() else []
        return _failed(f"{message}{'' if message.endswith('?') else '.'} See: {command_line(*known, '--help')}")
    except NasforgeError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return Outcome(code=output.STOPPED)
    except Exception as error:  # a plug-in's or ours: the traceback is for whoever mends it
        traceback.print_exc()
        return _failed(f"unexpected {type(error).__name__}: {error}. Finished trials are in the journal", 1)


def _names() -> list[str]:
    """The names of all commands."""
    return [str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands]


def _interrupted(arguments: list[str]) -> Outcome:
    """After Ctrl-C where no command listens for it."""
    if next((word for word in arguments if not word.startswith("-")), "") in _CONTINUED:
        return output.stopped("stopped; the same command continues", arguments)
    return _failed("stopped", output.STOPPED)


def _failed(message: str, code: int = 2) -> Outcome:
    message = cut(message)
    output.log().print(Text(message if code == output.STOPPED else f"error: {message}", style="red"), soft_wrap=True)
    return Outcome({"error": message}, code)


app.command()(fit)
app.command()(search)
app.command()(calibrate)
app.command()(compare)
app.command()(tune)
app.command()(inspect)
app.command()(predict)
app.command("list")(list_all)
app.command()(report)


@app.command()
def show(
    name: Name,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="One trial, whole.")] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Repeat that trial and compare; 1 when it differs.")] = False,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw that trial's network into a .html or .png file.")
    ] = None,
    importance: Annotated[
        bool, typer.Option("--importance", help="Which decisions matter: a table and NAME/figures/*.html.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="Rows of the leaderboard.")] = 10,
    data: MovedData = None,
    data_dir: MovedDataDir = None,
    runs_dir: RunsDir = Path("runs"),
    trust: Trust = False,
    as_json: Json = False,
) -> Outcome:
    """Show the result of a fit, or a search: leaderboard, Pareto front, failures, budget. Also while it runs.

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


@app.command()
def describe(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="A YAML file, or a shipped name.")],
    point: Annotated[
        str | None, typer.Option(metavar="FILE|random|default", help="One network of the space, part by part.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Take shape and classes from this data.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where torchvision keeps its downloads.")] = None,
    shape: Annotated[str, typer.Option(metavar="CxHxW", help="Of an image.")] = "3x32x32",
    classes: Annotated[int, typer.Option(min=2)] = 10,
    seed: Annotated[int, typer.Option(help="Of random points.")] = 0,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --point: draw the network into a .html or .png file.")
    ] = None,
    as_json: Json = False,
) -> Outcome:
    """The decisions of a search space, how many networks it holds, and what they cost.

    [bold]Examples[/bold]

    \b
    nasforge describe blocks
    nasforge describe search_spaces/tiny.yaml --data digits
    nasforge describe tiny --shape 1x8x8 --point random
    nasforge describe tiny --shape 1x8x8 --point point.json --json
    nasforge describe blocks --point random --draw network.png
    """
    from nasforge.cli import describe as cli_describe

    if point is not None:
        return cli_describe.describe_point(space, point, data, data_dir, shape, classes, seed, draw)
    if draw is not None:
        raise ConfigError("--draw draws one network: say which with --point")
    return cli_describe.describe(space, data, data_dir, shape, classes, seed)


@app.command()
def spaces(as_json: Json = False) -> Outcome:
    """The search spaces that come with NASForge.

    [bold]Examples[/bold]

    \b
    nasforge spaces
    nasforge spaces --json
    """
    from nasforge.cli import parts as cli_parts

    return cli_parts.spaces()


@app.command()
def strategies(as_json: Json = False) -> Outcome:
    """Strategies, pruners, evaluators, runners and export formats, with their options.

    [bold]Examples[/bold]

    \b
    nasforge strategies
    nasforge search tiny --data digits --strategy evolution --set strategy.population=20
    """
    from nasforge.cli import parts as cli_parts

    return cli_parts.parts()


app.command()(retrain)


@app.command()
def export(
    name: Name,
    to: Annotated[str, typer.Option(help="Formats with commas: onnx, torch_export, safetensors.")] = "safetensors",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: RUNS/NAME/exported.")] = None,
    data: MovedData = None,
    data_dir: MovedDataDir = None,
    runs_dir: RunsDir = Path("runs"),
    trust: Trust = False,
    as_json: Json = False,
) -> Outcome:
    """Ship the best network: each file is reloaded and must agree with it on validation images.

    [bold]Examples[/bold]

    \b
    nasforge export first --to onnx,torch_export,safetensors --out exported
    nasforge export first --to onnx --json
    """
    from nasforge.cli import results as cli_results
    from nasforge.cli.settings import folder_of, moved_data

    folder = folder_of(name, runs_dir)
    folder = fit_of(folder) or folder
    formats = [word.strip() for word in to.split(",")]
    return cli_results.export(folder, formats, out or folder / "exported", moved_data(data, data_dir), trust)


@app.command()
def track(
    name: Name,
    tracking_uri: Annotated[str | None, typer.Option(help="Default: where the search was tracked.")] = None,
    optuna: Annotated[
        str | None, typer.Option(metavar="STORAGE", help="Write a study for optuna-dashboard there instead.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: Json = False,
) -> Outcome:
    """Deliver to MLflow what it has not yet of an experiment, after the server was away, and its figures.

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


@app.command()
def dashboard(
    runs_dir: RunsDir = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
) -> Outcome:
    """Open the web page: experiments, leaderboard, Pareto front, learning curves, failures.

    [bold]Examples[/bold]

    \b
    nasforge dashboard
    nasforge dashboard --runs-dir runs --port 8600
    """
    from nasforge.cli import results as cli_results

    return cli_results.dashboard(runs_dir, port)


if __name__ == "__main__":
    sys.exit(main())
