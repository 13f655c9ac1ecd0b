"""The command `export`: options in, `nasforge.export`, then a table for people or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli.options import Json, MovedData, MovedDataDir, Name, RunsDir, Trust
from nasforge.cli.output import Outcome
from nasforge.experiment.journal import fit_of


def export(
    name: Name,
    to: Annotated[
        str, typer.Option(help="Formats, separated by commas: onnx, torch_export, safetensors.")
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
    from nasforge.cli import results as cli_results
    from nasforge.cli.settings import folder_of, moved_data

    folder = folder_of(name, runs_dir)
    folder = fit_of(folder) or folder
    formats = [word.strip() for word in to.split(",")]
    return cli_results.export(folder, formats, out or folder / "exported", moved_data(data, data_dir), trust)
