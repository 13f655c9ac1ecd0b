"""The command `compare`: options in, `nasforge.compare`, then tables for people or one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasforge.cli import completion, options, output
from nasforge.cli.output import Outcome
from nasforge.core.errors import ConfigError, StopNow

if TYPE_CHECKING:
    from nasforge.views.comparison_records import Comparison

_CAMPAIGN, _PARTS = "Campaign", "Searches of the campaign"


def compare(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Existing experiments, or a campaign's folder.",
            autocompletion=completion.experiments,
        ),
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="Strategies to run: 'evolution,evolution(sample=3)'. random is added.",
            rich_help_panel=_CAMPAIGN,
            autocompletion=completion.plugins("strategy"),
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of searches per strategy. Default: 10.", rich_help_panel=_CAMPAIGN)
    ] = None,
    max_trials: Annotated[
        int | None, typer.Option(help="Stop each search after N trials. Default: 20.", rich_help_panel=_CAMPAIGN)
    ] = None,
    max_worker_seconds: Annotated[
        float | None,
        typer.Option(help="Stop each search after this many seconds of worker time.", rich_help_panel=_CAMPAIGN),
    ] = None,
    max_multiply_adds: Annotated[
        float | None, typer.Option(help="Stop each search after this many multiply-adds.", rich_help_panel=_CAMPAIGN)
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Stop a search when a trial reaches val/accuracy=0.95, or the optimum of a table.",
            rich_help_panel=_CAMPAIGN,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Run N searches at the same time, each in its own process. Default: 1.", rich_help_panel=_CAMPAIGN
        ),
    ] = None,
    axis: Annotated[str, typer.Option(help="Unit of cost: trials, worker_seconds or multiply_adds.")] = "trials",
    at: Annotated[
        str | None, typer.Option(metavar="N,N", help="Compare at these costs. Default: the whole budget.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Search space: a YAML file or a shipped name.",
            rich_help_panel=_PARTS,
            autocompletion=completion.spaces,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Data, as for `nasforge search`. A table needs none.",
            rich_help_panel=_PARTS,
            autocompletion=completion.data,
        ),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            help="Evaluator. Default: training.", rich_help_panel=_PARTS, autocompletion=completion.plugins("evaluator")
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of the longest training.", rich_help_panel=_PARTS)] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Metric to optimise; repeat for more. Default: val/accuracy.", rich_help_panel=_PARTS),
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="Hard limit: 'flops<=40M'. Repeat for more.", rich_help_panel=_PARTS)
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(
            help="Pruner: asha, median or none. Default: asha.",
            rich_help_panel=_PARTS,
            autocompletion=completion.pruners,
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(
            help="Runner: local or ray_tune. Default: local.",
            rich_help_panel=_PARTS,
            autocompletion=completion.plugins("runner"),
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set any option: evaluator.path=table.npz.", rich_help_panel=_PARTS
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with settings. Command-line options override it.", rich_help_panel=_PARTS),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of torchvision's downloads.", rich_help_panel=_PARTS)
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Use only N training and validation images.", rich_help_panel=_PARTS)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the campaign's folder. Default: campaign, or comparison.", rich_help_panel=options.PLACE
        ),
    ] = None,
    runs_dir: options.RunsDirOfFile = None,
    tracking_uri: options.TrackingUri = None,
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> Outcome:
    """Compare strategies over seeds at equal cost: existing experiments, or a campaign to run now.

    A campaign always includes random search. The same command continues it. Supernet trainings, pruned trials and
    failed trials count towards the cost. It writes comparison.json, comparison.html and comparison.png, and an MLflow
    run.

    [bold]Examples[/bold]

    \b
    nasforge compare evolution-s0 evolution-s1 random-s0 random-s1
    nasforge compare --space tiny --data digits --strategies evolution,local_search --seeds 5 --max-trials 30
    nasforge compare --space my.yaml --data CIFAR10 --strategies 'evolution,evolution(sample=3),optuna(sampler=tpe)'
    nasforge compare --config table.yaml --strategies reinforce,local_search --seeds 500 --workers 2 --name nb201
    nasforge compare nb201 --at 100,150
    """
    from nasforge.api import compare as comparison
    from nasforge.cli.settings import data_options, settings_of, until_of

    budget = {
        "trials": max_trials,
        "worker_seconds": max_worker_seconds,
        "multiply_adds": max_multiply_adds,
        "until": until_of(until),
    }
    searched: dict[str, Any] = {
        "space": space,
        "evaluator": evaluator,
        "epochs": epochs,
        "objectives": objective,
        "constraints": constraint,
        "pruner": pruner,
        "runner": runner,
    }
    places = data_options(data, data_dir, images)
    campaign: dict[str, Any] = {}
    if strategies is None:
        settings = {**searched, **budget, **places, "config": config, "set": assign, "seeds": seeds, "workers": workers}
        campaign_options = sorted(key for key, value in settings.items() if value)
        if campaign_options:
            raise ConfigError(
                f"{', '.join(campaign_options)}: only for a campaign; name its --strategies",
                kind="missing",
                key="strategies",
            )
    else:
        if any((text or "").startswith("strategy.") for text in assign or []):
            raise ConfigError(
                "--set strategy....: write options beside the name: --strategies 'evolution(sample=3)'",
                kind="conflict",
                key="strategies",
            )
        campaign, document = settings_of(
            file=config,
            data=places,
            budget=budget,
            assignments=assign or [],
            defaults=comparison.CAMPAIGN_DEFAULTS,
            **searched,
        )
        for key in ("strategy", "seed", "name", "runs_dir", "tracking_uri"):
            campaign.pop(key, None)  # of the one search that the file describes
        campaign |= {"strategies": strategies, "document": document}
        campaign |= {} if seeds is None else {"seeds": seeds}
    place = runs_dir or Path("runs")
    try:
        with _progress() as progress:
            result = comparison.compare(
                names or [],
                name=name,
                axis=axis,
                at=_numbers(at),
                workers=1 if workers is None else workers,
                runs_dir=place,
                tracking_uri=tracking_uri,
                progress=progress,
                say=output.say,
                trust=trust,
                **campaign,
            )
    except StopNow as error:
        return output.stopped(error, context.obj)
    folder = comparison.comparison_folder(names or [], name, place, campaign=strategies is not None)
    _print(result, folder)
    return Outcome({**result.to_json(), "folder": str(folder)})


def _numbers(text: str | None) -> list[float]:
    try:
        return [float(word) for word in (text or "").split(",") if word.strip()]
    except ValueError:
        raise ConfigError(f"--at '{text}' must look like 100 or 100,150", kind="type", key="at") from None


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on a terminal, a line now and then elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = output.log()
    if console.is_terminal:
        columns = (TextColumn("searches"), BarColumn(bar_width=40), TextColumn("{task.completed}/{task.total}"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("searches", total=None)
            yield lambda name, done, total: bar.update(task, completed=done, total=total)
        return

    def say(name: str, done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            console.print(f"{done} of {total} searches done ({name})", soft_wrap=True)

    yield say


def _print(result: Comparison, folder: Path) -> None:
    from nasforge.views import comparison_page as page

    for title, columns, body in page.tables_at(result):
        if body:
            output.table(title, columns, body, left=("strategy",))
    if result.to_optimum:
        output.table(page.optimum_title(result), *page.optimum_table(result), left=("strategy",))
    for note in result.notes:
        output.line(f"Note: {note}.", style="yellow")
    for name, why in result.failed.items():
        output.line(f"Failed: {name}: {why}", style="red")
    files = sorted(path.name for path in folder.glob("comparison.*"))
    output.line(f"In {folder}: {', '.join(files)}")
