"""The command `explain`: options in, `nasforge.explain`, then a line per image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli import completion, options
from nasforge.cli.output import Outcome, all_unreadable, line
from nasforge.views.rounding import fixed


def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of a fit or an experiment, or a network folder.",
            autocompletion=completion.models,
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files, or folders of images. Default: the most confident right and wrong answers on the "
            "validation images.",
        ),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Explain this class. Default: the most likely class of each image.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the pictures. Default: `explained` in the folder of the experiment.")
    ] = None,
    runs_dir: options.RunsDir = Path("runs"),
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> Outcome:
    """Draw what a network sees: the maps of each stage, and the regions of an image that speak for its class.

    The dashboard's page of the network shows the pictures. The exit code is 1 if a file cannot be read.

    [bold]Examples[/bold]

    \b
    nasforge explain cells
    nasforge explain cells new/a.jpg --class monocyte
    nasforge explain runs/first/best new/ --out pictures
    """
    from nasforge.api.explain import explain as run
    from nasforge.data.image_file import shown

    unreadable: dict[str, str] = {}

    def skip(file: Path, reason: str) -> None:
        unreadable[str(file)] = reason
        line(f"{shown(file)}: {reason}")

    explanations = run(model, images or [], class_name=class_name, out=out, runs_dir=runs_dir, trust=trust, skip=skip)
    for each in explanations:
        truth = "" if each.truth is None else f" (labelled {each.truth})"
        silent = f"; no region speaks for {each.explained}" if each.silent else ""
        answer = f"{each.answer} {fixed(each.probability, 3)}{truth}{silent}"
        line(f"{shown(each.image)}: {answer}; pictures in {each.folder}")
    if unreadable and not explanations:
        return all_unreadable(unreadable)
    errors = [{"image": file, "error": reason} for file, reason in unreadable.items()]
    return Outcome([*(each.to_json() for each in explanations), *errors], int(bool(errors)))
