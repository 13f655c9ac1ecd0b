"""The command `retrain`: options in, `nasforge.retrain`, then tables for people or one JSON object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasforge.api.stopping import terminable
from nasforge.cli import completion, options
from nasforge.cli.live import RetrainProgress
from nasforge.cli.output import Outcome, line, log, metric_text, say, table
from nasforge.cli.settings import moved_data, runner_and_recipe
from nasforge.core.layout import BEST
from nasforge.experiment.journal import search_name
from nasforge.experiment.places import search_of
from nasforge.views.rounding import fixed

if TYPE_CHECKING:
    from nasforge.api.retrain.verdict import Ensemble, Finalists, Gain, RankAgreement, Retrained
    from nasforge.views.statistics import Spread

_PLACE = "Workers"
_COLUMNS = ("rank", "network", "name", "params", "flops")
_COSTS = ("cost/params", "cost/flops")
_FIGURES = ("test/accuracy", "test/f1_macro")


def retrain(
    name: options.Name,
    top: Annotated[int, typer.Option(min=1, help="Number of the best networks.")] = 1,
    random: Annotated[
        int, typer.Option(min=0, help="Number of other finished trials, drawn at random, to compare with.")
    ] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings per network.")] = 2,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of a training. Default: three times the search's longest.")
    ] = None,
    widen: Annotated[
        bool, typer.Option("--widen", help="Train each network as wide as the limits of the search allow.")
    ] = False,
    tta: Annotated[
        str,
        typer.Option(
            help="Also average the predictions over views of an image. flip: it and its mirror image, at 2 forward "
            "passes; crops: ten crops (centre, corners, mirrored), at 10; flip,crops: both; none: no averaging."
        ),
    ] = "none",
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1.")] = "auto",
    data: options.MovedData = None,
    data_dir: options.MovedDataDir = None,
    runner: Annotated[
        str,
        typer.Option(
            help="local: one after the other; ray_tune: on Ray workers.",
            rich_help_panel=_PLACE,
            autocompletion=completion.plugins("runner"),
        ),
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Address of a running Ray cluster: auto, HOST:PORT.", rich_help_panel=_PLACE)
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(help="Run at most N trainings at the same time. Default: as many as fit.", rich_help_panel=_PLACE),
    ] = None,
    workers_per_network: Annotated[
        int | None, typer.Option(help="Train each network on N workers together.", rich_help_panel=_PLACE)
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="Networks to compare with, scaled to the same FLOPs: registered names such as resnet,vgg,mobilenet_v2 "
            "(the gain is over the first), timm:NAME, or module:function.",
            autocompletion=completion.plugins("reference"),
        ),
    ] = "resnet",
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a setting of the search's recipe: recipe.cutout_pixels=8; or set an option of the runner: "
            "runner.resources.measure.gpu=0.5.",
        ),
    ] = None,
    runs_dir: options.RunsDir = Path("runs"),
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> Outcome:
    """Train the best networks from scratch, then measure each once on the sealed test split.

    Training uses the train and the validation split. For each network, a ResNet of about the same FLOPs is trained by
    the same recipe, or the networks of --reference. Two or more networks are also measured as an ensemble. The first
    becomes NAME/best. The same command continues after an interruption.

    [bold]Examples[/bold]

    \b
    nasforge retrain first
    nasforge retrain first --top 3 --random 3 --seeds 5 --epochs 30
    nasforge retrain first --top 3 --tta flip --json
    nasforge retrain first --top 3 --seeds 5 --runner ray_tune --max-concurrent 4
    nasforge retrain first --runner ray_tune --workers-per-network 2
    nasforge retrain first --reference resnet,vgg,mobilenet_v2
    nasforge retrain first --epochs 100 --set recipe.cutout_pixels=8 --set recipe.crop_pixels=4
    nasforge retrain first --epochs 100 --widen
    """
    folder = search_of(name, runs_dir)
    from nasforge.api.retrain import retrain as run  # imports torch

    places = {"address": address, "max_concurrent_trials": max_concurrent, "workers_per_network": workers_per_network}
    parts, recipe = runner_and_recipe(runner, places, assign or [])
    progress = RetrainProgress(log())
    with terminable(), progress.shown():
        finalists = run(
            folder,
            top=top,
            random=random,
            seeds=seeds,
            epochs=epochs,
            recipe=recipe,
            widen=widen,
            tta=tta,
            device=device,
            data=moved_data(data, data_dir),
            runner=parts,
            reference=reference,
            progress=progress,
            say=say,
            trust=trust,
        )
    _print(finalists)
    line(f"The first network is now {folder / BEST}")
    return Outcome({"experiment": search_name(folder), **finalists.to_json(), "best": str(folder / BEST)})


# --- what people read -------------------------------------------------------------------------------------------------


def _print(finalists: Finalists) -> None:
    from nasforge.api.retrain.networks import VIEWS

    measured = {key for finalist in finalists for key in finalist.retrained.test}
    figures = tuple(dict.fromkeys((finalists.figure, *_FIGURES)))
    augmented = {f"test_{kind}/accuracy": kind for kind in VIEWS}
    more = tuple(key for key in augmented if key in measured)
    rows = []
    for finalist in finalists.top:
        origin = "widened" if finalist.widened else "found"
        rows.append(_row(str(finalist.rank), origin, finalist.retrained, figures, more))
        rows += [_row("", "reference", reference, figures, more) for reference in finalist.parts[1:]]
    rows += [_row(str(finalist.rank), "random", finalist.retrained, figures, more) for finalist in finalists.random]
    if finalists.ensemble:
        rows.append(_ensemble_row(finalists.ensemble, figures, more))
    columns = (*_COLUMNS, *figures, "seeds", *more)
    epochs = f"{finalists[0].epochs} epoch{'s' * (finalists[0].epochs > 1)}"
    changes = {key: value for finalist in (*finalists.top, *finalists.random) for key, value in finalist.recipe.items()}
    changed = ", ".join(f"{key} {value}" for key, value in changes.items())
    trained = f"{epochs} on train + validation{' with ' * bool(changed)}{changed}"
    title = f"On the sealed test split, {trained}; ± is a 95 % confidence interval"
    table(title, columns, rows, left=("network", "name"))
    for key in more:
        views = VIEWS[augmented[key]]
        line(f"test_{augmented[key]}/: the mean over {views.description}, at {views.passes} times the FLOPs")
    for finalist in (*finalists.top, *finalists.random):
        for part in finalist.parts:
            for sentence in (*part.failures, *part.notes):
                say(sentence)
    for name, gain in finalists.gains.items():
        line(_gain_text(_whom(name, finalists.compared), gain, finalists.figure))
    if finalists.agreement.n > 1:
        line(_agreement_text(finalists.agreement))
    if finalists.warning:
        line(finalists.warning, style="yellow")


def _row(rank: str, who: str, retrained: Retrained, figures: Sequence[str], more: Sequence[str]) -> list[str]:
    test = {key: _spread_text(spread) for key, spread in retrained.test.items()}
    shown = [
        *(test.get(key, "-") for key in figures),
        str(len(retrained.networks)),
        *(test.get(key, "-") for key in more),
    ]
    costs = [metric_text(retrained.costs.get(key), key) for key in _COSTS]
    return [rank, who, retrained.name, *costs, *shown]


def _ensemble_row(ensemble: Ensemble, figures: Sequence[str], more: Sequence[str]) -> list[str]:
    costs = [metric_text(ensemble.costs.get(key), key) for key in _COSTS]
    test = {key: metric_text(ensemble.test.get(key), key) for key in (*figures, *more)}
    shown = [*(test[key] for key in figures), "1", *(test[key] for key in more)]
    return ["", "ensemble", f"of {len(ensemble.members)}", *costs, *shown]


def _spread_text(spread: Spread) -> str:
    if spread.margin is None:
        behind = " (one seed)" if spread.n == 1 else ""
    else:
        behind = " (all equal)" if spread.shown_margin is None else f" ± {fixed(spread.shown_margin, 4)}"
    return f"{fixed(spread.mean, 4)}{behind}"


def _whom(over: str, compared: Sequence[str]) -> str:
    """Return the networks that a gain is over, in words."""
    if over == "random":
        return "the random networks"
    name = compared[0] if over == "reference" else over.removeprefix("reference/")
    return "the reference ResNets" if name == "resnet" else f"the reference {name}"


def _gain_text(whom: str, gain: Gain, figure: str) -> str:
    title = f"Gain over {whom}" + (f" in {figure}" if figure != _FIGURES[0] else "")
    counted = _counted(gain)
    if gain.low is None or gain.high is None:
        if min(gain.n) < 2:
            why = "too few for an interval"
        elif gain.over == ("pairs", "pairs"):
            why = "no interval, since all differences are equal"
        else:
            why = "no interval, since they are all equal on either side"
        return f"{title}: {fixed(gain.difference, 4, '+')} ({counted}: {why})"
    interval = f"{fixed(gain.low, 4, '+')} to {fixed(gain.high, 4, '+')}"
    return f"{title}: {fixed(gain.difference, 4, '+')} (95 % interval {interval}; {counted})"


def _counted(gain: Gain) -> str:
    (ours, theirs), (mine, other) = gain.n, gain.over
    if mine == "pairs":
        return f"{ours} networks, each against its own reference"
    if mine == other:
        return f"{ours} against {theirs} {mine}"
    mine, other = (kind if n > 1 else kind[:-1] for n, kind in zip(gain.n, gain.over, strict=True))
    return f"{ours} {mine} against {theirs} {other}"


def _agreement_text(agreement: RankAgreement) -> str:
    text = "Order in the search and on the test split: "
    if agreement.tau is None:
        return f"{text}Kendall's tau is undefined, because all values of one side are equal (n = {agreement.n})"
    p_value = math.nan if agreement.p_value is None else agreement.p_value
    text += f"Kendall's tau {agreement.tau:+.2f} (p = {p_value:.2g}, n = {agreement.n})"
    if agreement.too_few:
        text += f"; too few networks: even perfect agreement has p = {agreement.least_p:.2g}. --random adds networks"
    return text
