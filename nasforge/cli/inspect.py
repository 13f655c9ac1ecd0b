"""The command `inspect`: options in, `nasforge.inspect`, then a few lines for people or one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasforge.cli import completion, options
from nasforge.cli.output import Outcome, line, table
from nasforge.cli.settings import check_data
from nasforge.views.rounding import percent

if TYPE_CHECKING:
    from nasforge.api.inspect import Inspection

_TABLE = "Table of labels"
_MOST_CLASSES, _MOST_LINES = 30, 10

Labels = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="Table with an image and its class in each line.", rich_help_panel=_TABLE),
]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of images. Default: a usual title such as image.", rich_help_panel=_TABLE)
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of classes. Default: a usual title such as label.", rich_help_panel=_TABLE)
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of patients, videos or other groups. A group stays on one side of every split.",
        rich_help_panel=_TABLE,
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail if any image or class would be left out.")]


def inspect(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="A folder, a .npz file, digits, or a torchvision name.", autocompletion=completion.data
        ),
    ],
    labels: Labels = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    strict: Strict = False,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> Outcome:
    """Look at a data set: classes, sizes, unreadable images, duplicates. It trains nothing and writes nothing.

    [bold]Examples[/bold]

    \b
    nasforge inspect photos/
    nasforge inspect photos/ --labels labels.csv --group-column patient
    nasforge inspect digits --json
    """
    check_data(data)
    from nasforge.api.inspect import inspect as run  # imports torch

    inspection = run(
        data,
        labels=labels,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        data_dir=data_dir,
        strict=strict,
    )
    show(inspection)
    return Outcome(inspection.to_json())


def show(report: Inspection) -> None:
    """Print an inspection."""
    low, middle, high = report.shorter_side
    size = f"{low} pixels" if low == high else f"{low} to {high} pixels, median {middle}"
    kind = {1: "grey", 3: "in colour"}.get(report.channels, f"of {report.channels} channels")
    line(f"{report.source}: {report.images:,} images of {len(report.classes)} classes, {kind}, shorter side {size}")
    if len(report.parts) > 1:
        line("Splits: " + ", ".join(f"{part} {count:,}" for part, count in report.parts.items()))
    rows = sorted(report.classes.items(), key=lambda pair: -pair[1])
    more = f", the {_MOST_CLASSES} largest of {len(rows)}" if len(rows) > _MOST_CLASSES else ""
    shown = [(name, f"{count:,}", percent(count / report.images, 1)) for name, count in rows[:_MOST_CLASSES]]
    table(f"Classes{more}", ("class", "images", "share"), shown, left=("class",))
    if report.imbalance > 3:
        line(f"The largest class has {report.imbalance:.1f} times the images of the smallest.")
    if report.groups is not None:
        line(f"{report.groups:,} groups of images that stay on one side of every split.")
    _list("Unreadable, left out", [f"{name}: {reason}" for name, reason in report.unreadable.items()])
    _list("Classes left out", [f"{name}: {reason}" for name, reason in report.left_out.items()])
    _list("Equal images with different classes", [" = ".join(names) for names in report.two_labels])
    _list("Equal images", [" = ".join(names) for names in report.duplicates])
    _list("Nearly equal images", [" ~ ".join(names) for names in report.near_duplicates])
    for note in report.notes:
        line(f"Note: {note}.")


def _list(title: str, lines: Sequence[str]) -> None:
    """Print a title with the number of lines, and the first of them."""
    if not lines:
        return
    line(f"{title}: {len(lines):,}", style="bold")
    for text in lines[:_MOST_LINES]:
        line(f"  {text}")
    if len(lines) > _MOST_LINES:
        line(f"  and {len(lines) - _MOST_LINES:,} more: --json lists all")
