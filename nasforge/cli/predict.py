"""The command `predict`: options in, `nasforge.predict`, then a line per image, a CSV table or a JSON list."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasforge.cli import completion, options
from nasforge.cli.output import Outcome, all_unreadable, line
from nasforge.core.errors import ConfigError
from nasforge.views.rounding import fixed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nasforge.api.predict import Prediction


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of a fit or an experiment, or a network folder or exported folder.",
            autocompletion=completion.models,
        ),
    ],
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, or folders of images.")],
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table with all probabilities.")] = False,
    runs_dir: options.RunsDir = Path("runs"),
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> Outcome:
    """Name the class of image files. The exit code is 1 if a file cannot be read.

    [bold]Examples[/bold]

    \b
    nasforge predict cells new/a.jpg new/b.jpg
    nasforge predict runs/first/best new/ --csv
    nasforge predict exported new/ --json
    """
    from nasforge.api.predict import predict as run

    if as_csv and as_json:
        raise ConfigError("--csv and --json are two forms of the answer: choose one", kind="conflict")
    predictions = run(model, images, runs_dir=runs_dir, trust=trust)
    if as_csv:
        typer.echo(_csv(predictions))  # rich would change tabs in the names of files
    else:
        for answer in predictions:
            line(_text(answer))
    errors = {answer.file: answer.error for answer in predictions if answer.error is not None}
    if len(errors) == len(predictions):
        return all_unreadable(errors)
    return Outcome([answer.to_json() for answer in predictions], int(bool(errors)))


def _text(answer: Prediction) -> str:
    from nasforge.data.image_file import shown

    file = shown(answer.file)
    if answer.probability is None:
        return f"{file}: {answer.error}"
    probability = fixed(answer.probability, 3)
    return f"{file}: {answer.label} {probability}{' (unsure)' if answer.unsure else ''}"


def _csv(predictions: Sequence[Prediction]) -> str:
    """Return a table: file, class, probability, unsure, error, then the probability of each class."""
    names = next((list(answer.probabilities) for answer in predictions if answer.probabilities), [])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "class", "probability", "unsure", "error", *(f"probability of {name}" for name in names)])
    for answer in predictions:
        unsure = "" if answer.unsure is None else str(answer.unsure).lower()
        figures = [(answer.probabilities or {}).get(name, "") for name in names]
        writer.writerow([answer.file, answer.label, answer.probability, unsure, answer.error, *figures])
    return text.getvalue().rstrip("\n")
