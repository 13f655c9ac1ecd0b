"""The command `export`: options in, `nasforge.export`, then a table for people or one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from nasforge import registry
from nasforge.cli import completion
from nasforge.cli.options import Json, MovedData, MovedDataDir, Name, RunsDir, Trust
from nasforge.cli.output import Outcome, line, log, table
from nasforge.cli.settings import moved_data
from nasforge.core.layout import EXPORTED
from nasforge.experiment.journal import search_name
from nasforge.experiment.places import owner_of
from nasforge.views.rounding import fixed


def export(
    name: Name,
    to: Annotated[
        str,
        typer.Option(
            help="Formats, separated by commas: onnx, torch_export, safetensors.",
            autocompletion=completion.plugins("exporter"),
        ),
    ] = "safetensors",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Output folder. Default: RUNS/NAME/exported.")] = None,
    data: MovedData = None,
    data_dir: MovedDataDir = None,
    runs_dir: RunsDir = Path("runs"),
    trust: Trust = False,
    as_json: Json = False,
) -> Outcome:
    """Export the best network. Each file is loaded again and compared with it on validation images.

    [bold]Examples[/bold]

    \b
    nasforge export first --to onnx,torch_export,safetensors --out exported
    nasforge export first --to onnx --json
    """
    folder = owner_of(name, runs_dir)
    formats = [word.strip() for word in to.split(",")]
    for form in formats:
        registry.check_name("exporter", form)
    return _export(folder, formats, out or folder / EXPORTED, moved_data(data, data_dir), trust)


def _export(
    folder: Path, formats: Sequence[str], out_folder: Path, data: Mapping[str, str], trust: bool = False
) -> Outcome:
    """Ship the best network, verified on `data` if they were moved."""
    from nasforge.api.export import CARDS
    from nasforge.api.export import export as run

    log().print(f"Exporting the best network of '{search_name(folder)}', comparing each file with it ...")
    content = run(folder, formats, out_folder, data, trust=trust).to_json()
    rows = []
    for name, path in content["files"].items():
        agreement = content["verified"][name]
        rows.append([name, path, fixed(agreement["accuracy"], 4)])
    table(
        f"Exported, each verified on {content['images']} validation images",
        ("format", "file", "accuracy"),
        rows,
        left=("format", "file"),
    )
    if content["trained_on_these"]:
        line(
            "The network was retrained on these images too. "
            "They show that the files agree, not how good the network is."
        )
    card = Path(content["card"])
    if card.name != CARDS[0]:
        line(f"{card.with_name(CARDS[0])} was edited, so it is kept.", style="yellow")
    line(f"Model card: {card}")
    return Outcome({"experiment": search_name(folder), **content})
