"""The command `fit`: options in, `nasforge.fit`, then a table for people or one JSON object."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nasforge.cli import completion, options, output
from nasforge.cli.inspect import GroupColumn, ImageColumn, LabelColumn, Labels, Strict
from nasforge.cli.output import Outcome
from nasforge.cli.settings import check_data
from nasforge.core.command_line import command_for, command_line, runs_dir_option
from nasforge.core.errors import StopNow
from nasforge.core.layout import FIT, JOURNAL, SEARCH
from nasforge.core.locks import is_locked
from nasforge.core.metrics import short_name
from nasforge.views.fit_remarks import more_photos, sentence_on_test, warnings_on
from nasforge.views.rounding import fixed


def began() -> float:
    """`time.monotonic()` of when this process began: a user's time counts from Enter."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = float(Path("/proc/uptime").read_text().split()[0])
        age = since_boot - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):  # not Linux
        return _IMPORTED
    began = clock.monotonic() - age
    return began if _IMPORTED - _SLOWEST_START_S < began <= _IMPORTED else _IMPORTED  # a container's clocks may differ


_IMPORTED = clock.monotonic()
_SLOWEST_START_S = 60.0
_PRETRAINED = "Pretrained networks"


def fit(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of images, a .npz file, digits, or a torchvision name.",
            autocompletion=completion.data,
        ),
    ],
    time: Annotated[str, typer.Option(help="Time for the whole command: 90s, 10m, 2h.")] = "10m",
    constraint: options.Constraint = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Metric: val/accuracy, val/balanced_accuracy, val/f1_macro or val/loss. Default: chosen from the data."
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="quick (many short trainings), balanced, or thorough (few long ones).")
    ] = "balanced",
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Repeat the decisions of another fit: its plan.yaml.")
    ] = None,
    labels: Labels = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    strict: Strict = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Let the pretrained timm network in this .safetensors or .pth file compete.",
            rich_help_panel=_PRETRAINED,
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="TIMM_NAME",
            help="Name of the network in --weights. Default: taken from the file's name.",
            rich_help_panel=_PRETRAINED,
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            metavar="TIMM_NAME",
            help="Download this pretrained network and let it compete; none: use no pretrained network. Default: use "
            "small networks in the local caches.",
            rich_help_panel=_PRETRAINED,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of splits, search and training.")] = 0,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda.", rich_help_panel=options.PLACE)] = "auto",
    name: Annotated[
        str | None,
        typer.Option(help="Name of the fit. Default: made from the data's name.", rich_help_panel=options.PLACE),
    ] = None,
    runs_dir: options.RunsDir = Path("runs"),
    tracking_uri: options.TrackingUri = None,
    as_json: options.Json = False,
) -> Outcome:
    """Turn a folder of images into a tested, exported model in a given time. The same command continues a stopped fit.

    [bold]Examples[/bold]

    \b
    nasforge fit digits --time 60s
    nasforge fit photos/
    nasforge fit photos/ --time 30m --constraint 'flops<=40M' --name cells
    nasforge fit photos/ --labels labels.csv --group-column patient
    nasforge fit more_photos/ --plan runs/cells/plan.yaml
    """
    from nasforge.api.fit import fit as run

    check_data(source)
    try:
        fitted = run(
            source,
            time=time,
            constraints=constraint or [],
            objective=objective,
            preset=preset,
            plan=plan,
            labels=labels,
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
            strict=strict,
            weights=weights,
            backbone=backbone,
            pretrained=pretrained,
            name=name,
            runs_dir=runs_dir,
            tracking_uri=tracking_uri,
            seed=seed,
            device=device,
            say=output.say,
            began=began(),
        )
    except StopNow as error:
        return output.stopped(error, context.obj)
    content = fitted.content
    _show(content)
    output.next_commands(
        [
            command_for(fitted.folder, "predict", "image.jpg"),
            command_for(fitted.folder, "report", "--open"),
        ]
    )
    return Outcome(content)


def show_fit(folder: Path) -> Outcome:
    """Show the result of a fit, or how far it has come."""
    from nasforge.api.fit import Fitted
    from nasforge.api.fit.log import entries_of, finished_of, reading

    entries = entries_of(folder)
    with reading(folder):
        if finished_of(entries) is None:
            return _show_unfinished(folder, entries)
        content = Fitted.read(folder).content
        _show(content)
    output.line(f"Its search: {_search_command(folder)}")
    return Outcome(content)


def _show_unfinished(folder: Path, entries: Sequence[Mapping[str, Any]]) -> Outcome:
    running = is_locked(folder / FIT)
    used = float(entries[-1]["used"]) if entries else 0.0
    decisions = {entry["name"]: entry["reason"] for entry in entries if entry["kind"] == "decision"}
    ends = "It is running." if running else "It has not finished. Repeat its command to continue it."
    output.line(f"{folder.name}: a fit, {used:.0f} seconds of work so far. {ends}", "bold")
    for name, reason in decisions.items():
        output.line(f"{name.replace('_', ' ')}: {reason}")
    if (folder / SEARCH / JOURNAL).is_file():
        output.line(f"Its search: {_search_command(folder)}")
    return Outcome({"fit": folder.name, "running": running, "seconds": used, "finished": False})


def _search_command(folder: Path) -> str:
    return command_line("show", f"{folder.name}/{SEARCH}", *runs_dir_option(folder.parent))


def _show(content: Mapping[str, Any]) -> None:
    for warning in warnings_on(content):
        output.line(warning, "red")
    split = content["split"]
    where = f"{split['folds']} folds" if split["folds"] > 1 else f"{split['validation']} validation images"
    # the metric of the choice is a column of its own: without it a winner may look worse than a row that it beats
    metric = content["metric"] if content["metric"] in ("balanced_accuracy", "f1_macro") else None
    rows = []
    for row in content["rows"]:
        low, high = row["test_ci95"]["accuracy"]
        rows.append(
            [
                ("* " if row["name"] == content["winner"] else "") + row["name"],
                fixed(row["val"]["accuracy"], 4),
                *([fixed(row["val"][metric], 4)] if metric else []),
                fixed(row["test"]["accuracy"], 4),
                f"{fixed(low, 4)} to {fixed(high, 4)}",
                fixed(row["test"]["balanced_accuracy"], 4),
                fixed(row["test"]["f1_macro"], 4),
                "" if row["params"] is None else f"{row['params']:,.0f}",
                "" if row["flops"] is None else f"{row['flops']:,.0f}",
            ]
        )
    title = f"val: {where}; {sentence_on_test(content)}; * the winner"
    names = {"balanced_accuracy": "balanced", "f1_macro": short_name("f1_macro")}  # the columns are narrow
    judged = (f"val {names[metric]}",) if metric else ()
    columns = ("row", "val accuracy", *judged, "test accuracy", "95 %", *(f"test {name}" for name in names.values()))
    columns += ("params", "flops")
    output.table(title, columns, rows, left=("row",))
    output.line(f"Winner: {content['winner']}: {content['reason']}")
    if sentence := more_photos(content):
        output.line(f"{sentence}.")
    tried = f"{content['tried']} candidate{'s' if content['tried'] != 1 else ''}"
    output.line(f"Tried {tried}, {content['compared']} of them to the end, in {content['seconds']:.0f} seconds.")
    output.line(f"Network: {content['network']}")
    output.line(f"Exported: {', '.join(content['exported'].values())}")
    output.line(f"Report: {content['report']}")
