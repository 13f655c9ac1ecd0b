"""The command `tune`: options in, `nasforge.tune`, then a table for people or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasforge.cli import completion, options, output
from nasforge.cli.describe import read_values
from nasforge.cli.live import Watch
from nasforge.cli.output import Outcome
from nasforge.cli.settings import WHICH_DATA, moved_data, until_of
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, StopNow
from nasforge.experiment.places import search_of
from nasforge.views.rounding import fixed
from nasforge.views.tables import unit_of

if TYPE_CHECKING:
    from nasforge.api.tune import Tuned
    from nasforge.core.architecture import Value

_NETWORK, _SEARCH = "Network", "Search"


def tune(
    context: typer.Context,
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="Experiment whose best network, data and settings are used.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Use the network of this trial.", rich_help_panel=_NETWORK)
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Use a network from a JSON file.", rich_help_panel=_NETWORK),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="TIMM_NAME", help="Use this timm network, without an experiment.", rich_help_panel=_NETWORK
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --model: start from the weights in this .safetensors or .pth file.",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="With --model: the data, as for `nasforge search`. Otherwise: the new place of the experiment's data.",
            rich_help_panel=_NETWORK,
            autocompletion=completion.data,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of torchvision's downloads.", rich_help_panel=_NETWORK)
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="With --model: use only N images.", rich_help_panel=_NETWORK)
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="With --model: metric to optimise. Repeat for more.", rich_help_panel=_NETWORK),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Recipe whose decisions are tuned. Default: the space's own.",
            rich_help_panel=_SEARCH,
            autocompletion=completion.recipes,
        ),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="Sampler: tpe, gp, cmaes, nsgaii, nsgaiii, qmc or random.", rich_help_panel=_SEARCH)
    ] = "tpe",
    max_trials: Annotated[
        int | None, typer.Option(help="Stop after N trials. Default: 20.", rich_help_panel=_SEARCH)
    ] = None,
    max_worker_seconds: Annotated[
        float | None, typer.Option(help="Stop after this many seconds of worker time.", rich_help_panel=_SEARCH)
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Stop when a trial reaches val/accuracy=0.95.", rich_help_panel=_SEARCH),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of the longest training. Default: the experiment's.", rich_help_panel=_SEARCH),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed. Default: the experiment's.", rich_help_panel=_SEARCH)] = None,
    pruner: Annotated[
        str | None,
        typer.Option(
            help="Pruner. Default: the experiment's, or asha.",
            rich_help_panel=_SEARCH,
            autocompletion=completion.pruners,
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(
            help="Runner. Default: the experiment's, or ray_tune.",
            rich_help_panel=_SEARCH,
            autocompletion=completion.plugins("runner"),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name. Default: EXPERIMENT-tuned, or made from the settings.", rich_help_panel=options.PLACE),
    ] = None,
    runs_dir: Annotated[
        Path,
        typer.Option("--runs-dir", metavar="DIR", help="Folder of the experiments.", rich_help_panel=options.PLACE),
    ] = Path("runs"),
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow server or database; none: no tracking.", rich_help_panel=options.PLACE)
    ] = None,
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> Outcome:
    """Tune the recipe of one network: the best of an experiment, another one, or a timm model.

    The first trial uses the current recipe of the network, so you see the gain. The result is an ordinary experiment:
    the same command continues it, and show, retrain and export work with it.

    [bold]Examples[/bold]

    \b
    nasforge tune first
    nasforge tune first --trial 7 --recipe sgd --max-trials 40 --sampler gp
    nasforge tune first --arch network.json --epochs 9 --name network-tuned
    nasforge tune --model resnet18.a1_in1k --data CIFAR10 --recipe sgd
    nasforge tune --model resnet18 --weights resnet18.safetensors --data photos/ --recipe finetune
    nasforge tune --model mobilenetv3_small_050 --data digits --recipe sgd --objective val/accuracy --objective val/loss
    """
    folder = search_of(experiment, runs_dir) if experiment is not None else None
    from nasforge.api.tune import tune as run  # imports torch

    limits = {"trials": max_trials, "worker_seconds": max_worker_seconds, "until": until_of(until)}
    settings: dict[str, Any] = {
        "name": name,
        "budget": {limit: amount for limit, amount in limits.items() if amount is not None} or None,
        "epochs": epochs,
        "seed": seed,
        "pruner": pruner,
        "runner": runner,
        "tracking_uri": tracking_uri,
    }
    alone = {"weights": weights, "images": images, "objective": objective}
    place: dict[str, Any] = {**moved_data(data, data_dir)}
    if model is None:
        model_options = [f"--{key.replace('_', '-')}" for key, value in alone.items() if value]
        if model_options:
            raise ConfigError(
                f"{', '.join(model_options)}: these options need --model. Leave them out for an experiment",
                kind="conflict",
            )
    elif trial is not None or arch is not None:
        raise ConfigError(
            "--trial and --arch choose a network of an experiment. Leave them out with --model", kind="conflict"
        )
    else:
        if data is None:
            raise ConfigError(WHICH_DATA, kind="missing", key="data")
        place |= {"images": images} if images is not None else {}
        settings |= {"objectives": objective or None, "runs_dir": runs_dir}
    watch = Watch(output.log())
    try:
        with watch.shown():
            tuned = run(
                folder,
                trial=trial,
                architecture=read_values(arch, "--arch") if arch is not None else None,
                recipe=recipe,
                sampler=sampler,
                model=model,
                weights=weights,
                data=place,
                trackers=[watch],
                say=watch.say,
                on_open=watch.on_open,
                trust=trust,
                **{key: value for key, value in settings.items() if value is not None},
            )
    except StopNow as error:
        return output.stopped(error, context.obj)
    return _reported(tuned)


def _reported(tuned: Tuned) -> Outcome:
    state, best = tuned.state, tuned.state.best
    keys = [objective.metric for objective in state.objectives]
    ranked = state.ranking()[:5]
    shown = [*ranked, *([tuned.begun] if tuned.begun and tuned.begun not in ranked else [])]
    rows = []
    for trial in shown:
        values = trial.architecture.train if trial.architecture else {}
        cells = [_text(value) for value in values.values()]
        which = f"{trial.number} (first)" if trial is tuned.begun else str(trial.number)
        rows.append([which, *(output.metric_text(trial.metrics[key], key) for key in keys), *cells])
    if rows and best and best.architecture:
        title = f"{state.name}: recipes of network {tuned.network}"
        decided = {key for trial in shown if trial.architecture for key in trial.architecture.train}
        if decided == set(best.architecture.train):
            columns = ("trial", *keys, *best.architecture.train)
            same = [place for place in range(1 + len(keys), len(columns)) if len({row[place] for row in rows}) == 1]
            if same and len(rows) > 1:
                output.line(f"In all rows: {', '.join(f'{columns[place]} {rows[0][place]}' for place in same)}.")
                rows = [[cell for place, cell in enumerate(row) if place not in same] for row in rows]
                columns = tuple(column for place, column in enumerate(columns) if place not in same)
        else:  # conditional decisions differ from trial to trial
            columns, rows = ("trial", *keys), [row[: 1 + len(keys)] for row in rows]
        output.table(title, columns, rows, left=("trial",))
    else:
        output.line("No trial finished.", style="yellow")
    if tuned.gained is not None:
        output.line(
            f"Gain over the first recipe: {fixed(tuned.gained, 4, '+')} {keys[0]}, one training each.", style="bold"
        )
    if tuned.changed:
        differences = ", ".join(f"{key} {_text(now)} (was {_text(then)})" for key, (then, now) in tuned.changed.items())
        output.line(f"The first recipe differs from the network's own recipe: {differences}.")
    folder = tuned.config.folder
    output.next_commands([command_for(folder, "show"), *(output.commands_after(folder, state) if best else ())])
    first = output.trial_json(tuned.begun, unit_of(state)) if tuned.begun else None
    changed = {key: {"then": then, "now": now} for key, (then, now) in tuned.changed.items()}
    content = {**output.state_json(state), "network": tuned.network, "first": first, "gained": tuned.gained}
    return Outcome({**content, "changed": changed, "folder": str(tuned.config.folder)}, code=0 if best else 1)


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
