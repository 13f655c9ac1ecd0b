"""Options that several commands have: one name, one help, one place on the help's page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

DATA, PARTS, PLACE = "The data", "The parts", "Place and output"
"""Panels of a command's help."""

Name: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The experiment: a folder in the runs folder.")]
Space: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="SPACE", help="A YAML file, or a shipped name: see `nasforge spaces`.")
]
Constraint: TypeAlias = Annotated[list[str] | None, typer.Option(help="'flops<=40M', 'params<=300k'; again for more.")]

Until: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Stop when a trial reaches val/accuracy=0.95; again for more; or optimum."),
]

Data: TypeAlias = Annotated[
    str | None,
    typer.Option(help="digits, a torchvision name, a .npz file or a folder of images.", rich_help_panel=DATA),
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option(help="Where torchvision keeps its downloads.", rich_help_panel=DATA)
]
Images: TypeAlias = Annotated[
    int | None, typer.Option(help="Use only so many training and validation images.", rich_help_panel=DATA)
]
Resolution: TypeAlias = Annotated[
    int | None, typer.Option(help="Resize images to this height and width.", rich_help_panel=DATA)
]

Config: TypeAlias = Annotated[
    Path | None, typer.Option(help="An experiment's YAML file; options go over it.", rich_help_panel=PARTS)
]

MovedData: TypeAlias = Annotated[
    str | None,
    typer.Option("--data", metavar="PATH", help="Where the data lie now, if they were moved.", rich_help_panel=DATA),
]
MovedDataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where torchvision's downloads lie now.", rich_help_panel=DATA),
]
"""Of commands that need the data of a search that is over."""

Address: TypeAlias = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster: auto, HOST:PORT.", rich_help_panel=PLACE)
]
RunsDir: TypeAlias = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Where experiments live.")]
RunsDirOfFile: TypeAlias = Annotated[
    Path | None, typer.Option("--runs-dir", metavar="DIR", help="Default: runs.", rich_help_panel=PLACE)
]
"""Of commands that take an experiment's file, which may name one."""

TrackingUri: TypeAlias = Annotated[
    str | None, typer.Option(help="MLflow's; none for no tracking. Default: RUNS/mlflow.db.", rich_help_panel=PLACE)
]
Trust: TypeAlias = Annotated[
    bool,
    typer.Option("--trust", help="Run code that the experiment names, also if it is not yours: see docs/security.md."),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]
"""Read by `main` before any command runs, so that nothing reaches stdout too early."""
