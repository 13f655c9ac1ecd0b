"""The command `calibrate`: options in, `nasforge.calibrate`, then a table for people or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasforge.cli import completion, options, output
from nasforge.cli.live import Watch
from nasforge.cli.output import Outcome
from nasforge.cli.settings import data_options, settings_of
from nasforge.core.errors import StopNow
from nasforge.core.metrics import PROXY
from nasforge.settings.experiment import resolve

if TYPE_CHECKING:
    from nasforge.views.calibration import Calibration

_EPOCHS = 9


def calibrate(
    context: typer.Context,
    space: options.Space = None,
    data: options.Data = None,
    networks: Annotated[int, typer.Option(min=3, help="Number of random networks within the constraints.")] = 12,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings per network.")] = 2,
    epochs: Annotated[int | None, typer.Option(help=f"Epochs of full training. Default: {_EPOCHS}.")] = None,
    proxies: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Compare these zero-cost scores too.", autocompletion=completion.plugins("proxy")
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Forecast the cost of a search of N trials.")] = 100,
    constraint: options.Constraint = None,
    objective: Annotated[
        str | None, typer.Option(help="Metric that ranks the networks. Default: val/accuracy.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Draw the decisions of this recipe too.",
            rich_help_panel=options.SETTINGS_PANEL,
            autocompletion=completion.recipes,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the draws. Default: 0.", rich_help_panel=options.SETTINGS_PANEL)
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(
            help="Runner: ray_tune or local.",
            rich_help_panel=options.SETTINGS_PANEL,
            autocompletion=completion.plugins("runner"),
        ),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="Evaluator. Default: training.",
            rich_help_panel=options.SETTINGS_PANEL,
            autocompletion=completion.plugins("evaluator"),
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any option: recipe.mixup=0.2.",
            rich_help_panel=options.SETTINGS_PANEL,
        ),
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    images: options.Images = None,
    resolution: options.Resolution = None,
    address: options.Address = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the experiment. Default: calibrate-SPACE-DATA-s0.", rich_help_panel=options.PLACE),
    ] = None,
    runs_dir: options.RunsDirOfFile = None,
    tracking_uri: options.TrackingUri = None,
    as_json: options.Json = False,
) -> Outcome:
    """Measure how well short trainings predict full training, and recommend a ladder.

    The command trains about a dozen random networks to the end, each twice. The result is an ordinary experiment: the
    same command continues it. It writes calibration.json, calibration.html and calibration.png into its folder.

    [bold]Examples[/bold]

    \b
    nasforge calibrate tiny --data digits
    nasforge calibrate tiny --data digits --networks 6 --epochs 4 --proxies synflow,naswot --json
    nasforge calibrate --config experiment.yaml --seeds 3 --trials 500
    """
    settings, document = settings_of(
        space=space,
        file=config,
        data=data_options(data, data_dir, images, resolution),
        recipe={"open": recipe},
        runner_options={"address": address},
        assignments=assign or [],
        runner=runner,
        evaluator=evaluator,
        objectives=[objective] if objective else None,
        constraints=constraint,
        epochs=epochs if epochs is not None or config is not None else _EPOCHS,
        seed=seed,
        name=name,
        runs_dir=runs_dir,
        tracking_uri=tracking_uri,
    )
    resolved = resolve(settings, document)
    from nasforge.api.calibrate import calibrate as run  # imports SciPy
    from nasforge.api.calibrate import configured

    scores = [word.strip() for word in proxies.split(",")] if proxies else []
    configuration = configured(resolved, networks, seeds, scores, named=name is not None)
    watch = Watch(output.log())
    try:
        with watch.shown():
            calibration = run(
                networks=networks,
                seeds=seeds,
                proxies=scores,
                trials=trials,
                config=configuration,
                trackers=[watch],
                say=watch.say,
                on_open=watch.on_open,
            )
    except StopNow as error:
        return output.stopped(error, context.obj)
    return _reported(calibration, configuration.folder)


def _reported(result: Calibration, folder: Path) -> Outcome:
    from nasforge.views.calibration_page import RUNG_COLUMNS, interval_text, recommendation, rung_row

    seeds = "other seeds" if result.seeds > 1 else "the same run"
    rows = [rung_row(result, rung) for rung in result.rungs]
    title = (
        f"{result.metric} of {result.networks} networks, {result.seeds} seeds; "
        f"correlations with full training of {seeds}"
    )
    output.table(title, RUNG_COLUMNS, rows, left=("epochs", "Spearman", "Kendall"))
    if result.proxies:
        scores = [[name.removeprefix(PROXY), interval_text(fact)] for name, fact in result.proxies.items()]
        output.table("Zero-cost scores with full training", ("score", "Spearman"), scores, left=("score", "Spearman"))
    if result.left_out:
        output.line(f"{result.left_out} network(s) are left out, because some seeds were not trained to the end")
    for sentence in recommendation(result):
        output.line(sentence)
    for advice in result.advice:
        output.say(advice)
    return Outcome({"experiment": folder.name, **result.to_json()})
