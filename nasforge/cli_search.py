"""The command `search`: options in, `nasforge.search`, then tables for people or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nasforge import cli_output as output
from nasforge.cli_output import Outcome
from nasforge.core.errors import ConfigError

_DATA, _PARTS, _PLACE = "The data", "The parts", "Place and output"


def search(
    context: typer.Context,
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="A YAML file, or a shipped name: see `nasforge spaces`.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, a torchvision name, a .npz file or a folder of images.", rich_help_panel=_DATA),
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="See `nasforge strategies`. Default: evolution.")] = None,
    max_trials: Annotated[int | None, typer.Option(help="End after so many trials. Default: 20.")] = None,
    max_worker_seconds: Annotated[float | None, typer.Option(help="End after so much work, over all workers.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the longest training. Default: 3.")] = None,
    objective: Annotated[
        list[str] | None, typer.Option(help="May be given again; max:KEY or min:KEY. Default: val/accuracy.")
    ] = None,
    constraint: Annotated[list[str] | None, typer.Option(help="'flops<=40M', 'params<=300k'; again for more.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A soft limit: shapes rewards and a supernet's loss, and the ranking.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="Search this recipe's decisions in place of the space's: sgd."),
    ] = None,
    tune: Annotated[
        str | None, typer.Option(metavar="STRATEGY", help="Search the recipe by a strategy of its own: optuna.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the whole search. Default: 0.")] = None,
    pruner: Annotated[str | None, typer.Option(help="asha, median or none. Default: asha.")] = None,
    runner: Annotated[str | None, typer.Option(help="ray_tune or local. Default: ray_tune.")] = None,
    evaluator: Annotated[str | None, typer.Option(help="What measures a proposal. Default: training.")] = None,
    cv: Annotated[
        int | None, typer.Option("--cv", metavar="K", help="Measure each network by a K-fold cross-validation.")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option of a part: strategy.population=20.", rich_help_panel=_PARTS
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="An experiment's YAML file; options go over it.", rich_help_panel=_PARTS)
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where torchvision keeps its downloads.", rich_help_panel=_DATA)
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Use only so many training and validation images.", rich_help_panel=_DATA)
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Resize images to this height and width.", rich_help_panel=_DATA)
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster: auto, HOST:PORT.", rich_help_panel=_PLACE)
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(help="Trials at the same time. Default: what fits.", rich_help_panel=_PLACE)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the experiment. Default: made from the settings.", rich_help_panel=_PLACE)
    ] = None,
    runs_dir: Annotated[Path | None, typer.Option(help="Default: runs.", rich_help_panel=_PLACE)] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow's; none for no tracking. Default: RUNS/mlflow.db.", rich_help_panel=_PLACE),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the search would cost; write nothing.", rich_help_panel=_PLACE)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
    ] = False,
) -> Outcome:
    """Search for the best networks. The same command continues a search that was stopped.

    [bold]Examples[/bold]

    \b
    nasforge search tiny --data digits
    nasforge search tiny --data digits --max-trials 40 --epochs 9 --name first
    nasforge search blocks --data fashion.npz --constraint 'flops<=40M' --dry-run
    nasforge search my_space.yaml --data photos/ --strategy nsga2 --objective val/accuracy --objective cost/flops
    nasforge search tiny --data digits --strategy evolution --tune optuna --set tune.sampler=gp
    nasforge search tiny --data digits --strategy cost_aware --target 'params<=10k' --set strategy.epochs=20
    nasforge search blocks --data CIFAR10 --data-dir data --set strategy.population=20 --set recipe.optimizer=adamw
    nasforge search tiny --data digits --cv 5 --pruner median --epochs 6
    nasforge search --config experiment.yaml --address auto
    """
    from nasforge.cli_settings import config_of

    if cv is not None and evaluator not in (None, "cross_validation"):
        raise ConfigError(f"--cv is the evaluator cross_validation, and --evaluator says {evaluator}: leave one out")
    measured: Any = evaluator if cv is None else {"name": "cross_validation", "folds": cv}
    settings: dict[str, Any] = {
        **{"strategy": strategy, "tune": tune, "pruner": pruner, "evaluator": measured, "runner": runner},
        **{"objectives": objective, "constraints": constraint, "targets": target, "epochs": epochs, "seed": seed},
        **{"name": name, "runs_dir": runs_dir, "tracking_uri": tracking_uri},
    }
    resolved = config_of(
        space=space,
        file=config,
        data={
            "source": data,
            "folder": str(data_dir) if data_dir else None,
            "images": images,
            "resolution": resolution,
        },
        budget={"trials": max_trials, "worker_seconds": max_worker_seconds},
        recipe={"open": recipe},
        runner={"address": address, "max_concurrent_trials": max_concurrent},
        assignments=assign or [],
        settings=settings,
    )
    from nasforge import cli_results
    from nasforge.compose import StopNow

    if dry_run:
        return cli_results.dry_run(resolved)
    try:
        return cli_results.search(resolved)
    except StopNow as error:
        return output.stopped(error, context.obj)
