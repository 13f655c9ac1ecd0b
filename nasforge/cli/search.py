"""The command `search`: options in, `nasforge.search`, then tables for people or one JSON object."""

from __future__ import annotations

from typing import Annotated

import typer

from nasforge.cli import options, output
from nasforge.cli.output import Outcome
from nasforge.core.errors import ConfigError, StopNow


def search(
    context: typer.Context,
    space: options.Space = None,
    data: options.Data = None,
    strategy: Annotated[
        str | None, typer.Option(help="Strategy (see `nasforge strategies`). Default: evolution.")
    ] = None,
    max_trials: Annotated[int | None, typer.Option(help="Stop after N trials. Default: 20.")] = None,
    max_worker_seconds: Annotated[float | None, typer.Option(help="Stop after this many worker-seconds.")] = None,
    until: options.Until = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the longest training. Default: 3.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Metric to optimise; repeat for more. max:KEY or min:KEY. Default: val/accuracy."),
    ] = None,
    constraint: options.Constraint = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Soft limit. It affects rewards, a supernet's loss and the ranking.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="Search the decisions of this recipe instead of the space's: sgd."),
    ] = None,
    tune: Annotated[
        str | None, typer.Option(metavar="STRATEGY", help="Search the recipe with its own strategy: optuna.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="default|portfolio|none|FILE|EXPERIMENT",
            help="Try these points first. Default: the default point of the space, if networks are trained.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the whole search. Default: 0.")] = None,
    pruner: Annotated[str | None, typer.Option(help="Pruner: asha, median or none. Default: asha.")] = None,
    runner: Annotated[str | None, typer.Option(help="Runner: ray_tune or local. Default: ray_tune.")] = None,
    evaluator: Annotated[
        str | None, typer.Option(help="Evaluator that measures each proposal. Default: training.")
    ] = None,
    cv: Annotated[
        int | None, typer.Option("--cv", metavar="K", help="Measure each network by K-fold cross-validation.")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any option: strategy.population=20.",
            rich_help_panel=options.PARTS,
        ),
    ] = None,
    config: options.Config = None,
    data_dir: options.DataDir = None,
    images: options.Images = None,
    resolution: options.Resolution = None,
    address: options.Address = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            help="Run at most N trials at the same time. Default: as many as fit.", rich_help_panel=options.PLACE
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the experiment. Default: made from the settings.", rich_help_panel=options.PLACE),
    ] = None,
    runs_dir: options.RunsDirOfFile = None,
    tracking_uri: options.TrackingUri = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print what the search would cost. Write nothing.", rich_help_panel=options.PLACE
        ),
    ] = False,
    as_json: options.Json = False,
) -> Outcome:
    """Search for the best networks. The same command continues a stopped search.

    [bold]Examples[/bold]

    \b
    nasforge search tiny --data digits
    nasforge search tiny --data digits --max-trials 40 --epochs 9 --name first
    nasforge search blocks --data fashion.npz --constraint 'flops<=40M' --dry-run
    nasforge search my_space.yaml --data photos/ --strategy nsga2 --objective val/accuracy --objective cost/flops
    nasforge search tiny --data digits --strategy evolution --tune optuna --set tune.sampler=gp
    nasforge search tiny --data digits --strategy cost_aware --target 'params<=10k' --set strategy.epochs=20
    nasforge search blocks --data CIFAR10 --data-dir data --set strategy.population=20 --set recipe.mixup=0.2
    nasforge search tiny --data digits --max-trials 200 --until val/accuracy=0.95
    nasforge search tiny --data digits --cv 5 --pruner median --epochs 6
    nasforge search photos --data my_photos/ --start-from portfolio --epochs 30
    nasforge search --config experiment.yaml --address auto
    """
    from nasforge.cli import results as cli_results
    from nasforge.cli.settings import data_options, settings_of, until_of
    from nasforge.settings.experiment import resolve

    if cv is not None and evaluator not in (None, "cross_validation"):
        raise ConfigError(f"--cv is the evaluator cross_validation, and --evaluator says {evaluator}: leave one out")
    settings, document = settings_of(
        space=space,
        file=config,
        data=data_options(data, data_dir, images, resolution),
        budget={"trials": max_trials, "worker_seconds": max_worker_seconds, "until": until_of(until)},
        recipe={"open": recipe},
        runner_options={"address": address, "max_concurrent_trials": max_concurrent},
        assignments=assign or [],
        strategy=strategy,
        tune=tune,
        pruner=pruner,
        evaluator=evaluator if cv is None else {"name": "cross_validation", "folds": cv},
        runner=runner,
        objectives=objective,
        constraints=constraint,
        targets=target,
        epochs=epochs,
        start_from=start_from,
        seed=seed,
        name=name,
        runs_dir=runs_dir,
        tracking_uri=tracking_uri,
    )
    resolved = resolve(settings, document)
    if dry_run:
        return cli_results.dry_run(resolved)
    try:
        return cli_results.search(resolved)
    except StopNow as error:
        return output.stopped(error, context.obj)
