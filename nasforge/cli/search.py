"""The command `search`: options in, `nasforge.search`, then tables for people or one JSON object."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from nasforge.cli import completion, options, output
from nasforge.cli.live import Watch
from nasforge.cli.output import (
    Outcome,
    commands_after,
    line,
    metric_text,
    next_commands,
    size_json,
    state_json,
    table,
)
from nasforge.cli.settings import data_options, settings_of, until_of
from nasforge.cli.summary import print_summary
from nasforge.core.command_line import command_for, command_line, runs_dir_option
from nasforge.core.errors import ConfigError, StopNow
from nasforge.core.tracking_uri import NO_TRACKING
from nasforge.core.trial import Trial
from nasforge.experiment.state import State
from nasforge.settings.experiment import ExperimentConfig, resolve
from nasforge.views.results import limit_remarks
from nasforge.views.rounding import percent
from nasforge.views.texts import seconds_text, size_text


def search(
    context: typer.Context,
    space: options.Space = None,
    data: options.Data = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="Strategy (see `nasforge strategies`). Default: evolution.",
            autocompletion=completion.plugins("strategy"),
        ),
    ] = None,
    max_trials: Annotated[int | None, typer.Option(help="Stop after N trials. Default: 20.")] = None,
    max_worker_seconds: Annotated[
        float | None, typer.Option(help="Stop after this many seconds of worker time.")
    ] = None,
    until: options.Until = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the longest training. Default: 3.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Metric to optimise; repeat for more. max:KEY or min:KEY. Default: val/accuracy."),
    ] = None,
    constraint: options.Constraint = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Soft limit: 'params<=10k'. It affects rewards, a supernet's loss and the ranking."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Search the decisions of this recipe instead of the space's: sgd.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="STRATEGY",
            help="Search the recipe with its own strategy: optuna.",
            autocompletion=completion.plugins("strategy"),
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="default|portfolio|none|FILE|EXPERIMENT",
            help="Try these points first. Default: the default point of the space, if networks are trained.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the whole search. Default: 0.")] = None,
    pruner: Annotated[
        str | None, typer.Option(help="Pruner: asha, median or none. Default: asha.", autocompletion=completion.pruners)
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(help="Runner: ray_tune or local. Default: ray_tune.", autocompletion=completion.plugins("runner")),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="Evaluator that measures each proposal. Default: training.",
            autocompletion=completion.plugins("evaluator"),
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task that sets loss and metrics. Default: classification.",
            rich_help_panel=options.SETTINGS_PANEL,
            autocompletion=completion.plugins("task"),
        ),
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
            rich_help_panel=options.SETTINGS_PANEL,
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
    if cv is not None and evaluator not in (None, "cross_validation"):
        raise ConfigError(
            f"--cv is the evaluator cross_validation, and --evaluator says {evaluator}: leave one out",
            kind="conflict",
            key="evaluator",
        )
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
        task=task,
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
        return print_forecast(resolved)
    try:
        return run_search(resolved)
    except StopNow as error:
        return output.stopped(error, context.obj)


def run_search(config: ExperimentConfig) -> Outcome:
    """Run or continue a search and say what came out."""
    from nasforge.api.search import search as run

    watch = Watch(output.log())
    with watch.shown():
        state = run(config, trackers=[watch], say=watch.say, on_open=watch.on_open)
    print_summary(state, remarks=limit_remarks(state))  # the search itself has said the others
    best = state.best
    if best is not None:
        _print_network(best)
    _print_next(config, state)
    folder = config.folder
    return Outcome({**state_json(state), "folder": str(folder)}, code=0 if best is not None else 1)


def print_forecast(config: ExperimentConfig) -> Outcome:
    """Say what a search would spend."""
    from nasforge.api.forecast import forecast

    output.log().print("Checking random points and training one for a moment ...")
    estimate = forecast(config)
    low, high = estimate.interval
    trained = f"{estimate.epochs} epochs, " if estimate.epochs else ""
    line(f"Dry run of '{config.name}': nothing was written.", style="bold")
    rows = [
        ("points of the space", size_text(estimate.points)),
        (
            "feasible share",
            f"{percent(estimate.feasible / estimate.sampled)} of {estimate.sampled} random points "
            f"(95 % interval {percent(low)} to {percent(high)})",
        ),
        ("cannot be built", f"{estimate.unbuildable} of {estimate.sampled}"),
        (
            "probe",
            ", ".join(f"{k.removeprefix('cost/')} {metric_text(v, k)}" for k, v in estimate.probe_costs.items()) or "-",
        ),
        ("seconds per trial", f"{estimate.seconds_per_trial:.1f} ({trained}one worker)"),
        ("trials", f"{estimate.trials:,.0f}" if math.isfinite(estimate.trials) else "until another limit is reached"),
        *(
            [("a trial is", f"{percent(estimate.piece)} of that, because trials continue from checkpoints")]
            if estimate.piece < 1
            else []
        ),
        ("workers", str(estimate.workers)),
        ("expected time", f"{seconds_text(estimate.seconds)} without the pruner, which saves part of it"),
    ]
    if estimate.supernets:
        count = f"{estimate.supernets} supernets to begin with" if estimate.supernets > 1 else "one to begin with"
        seconds = f"{estimate.supernet_seconds:.1f} ({count}; a measurement on its weights takes less than a trial)"
        rows.insert(5, ("seconds per supernet", seconds))
    table("What it would cost", ("what", "how much"), rows, left=("what", "how much"))
    return Outcome(
        {"experiment": config.name, "dry_run": True, **estimate.to_json(), **size_json("points", estimate.points)}
    )


def _print_network(trial: Trial) -> None:
    """Print the winner: the decisions of the network layer by layer, then those of the recipe."""
    if trial.architecture is None:
        return
    parts: dict[str, list[str]] = {}
    for key, value in trial.architecture.model.items():
        part, dot, rest = key.partition(".")
        parts.setdefault(part if dot else "", []).append(f"{rest or key} {value}")
    recipe = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.architecture.train.items()]
    line()
    line(f"The best network (trial {trial.number}, arch_id {trial.architecture.arch_id}):", style="bold")
    for part, decisions in parts.items():
        line(f"  {part or 'all':<8} {', '.join(decisions)}")
    if recipe:
        line(f"  {'recipe':<8} {', '.join(recipe)}")


def _print_next(config: ExperimentConfig, state: State) -> None:
    folder = config.folder
    if state.best is None:
        reason = state.why_no_best
        line(f"{reason[0].upper()}{reason[1:]}. See: {command_for(folder, 'show')}", style="yellow")
        return
    commands = commands_after(folder, state)
    commands.append(command_line("dashboard", *runs_dir_option(config.runs_dir)))
    if config.tracking_uri != NO_TRACKING:
        commands.append(command_for(folder, "mlflow"))
    line()
    next_commands(commands)
