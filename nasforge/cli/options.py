"""Options that several commands have: one name, one help, one place on the help's page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from nasforge.cli import completion

DATA, SETTINGS_PANEL, PLACE = "Data", "Settings", "Run and output"
"""Panels of a command's help."""

Name: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of the experiment, a folder in the runs folder.",
        autocompletion=completion.experiments,
    ),
]
Space: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="SPACE",
        help="A YAML file or a shipped name (see `nasforge spaces`).",
        autocompletion=completion.spaces,
    ),
]
Constraint: TypeAlias = Annotated[
    list[str] | None, typer.Option(help="Hard limit: 'flops<=40M', 'params<=300k'. Repeat for more.")
]

Until: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Stop when a trial reaches val/accuracy=0.95. Repeat for more. optimum: stop at a table's best value.",
    ),
]

Data: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="digits, a torchvision name, a .npz file or a folder of images.",
        rich_help_panel=DATA,
        autocompletion=completion.data,
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder of torchvision's downloads.", rich_help_panel=DATA)
]
Images: TypeAlias = Annotated[
    int | None, typer.Option(help="Use only N training and validation images.", rich_help_panel=DATA)
]
Resolution: TypeAlias = Annotated[
    int | None, typer.Option(help="Resize all images to this height and width.", rich_help_panel=DATA)
]

Config: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="YAML file with settings. Command-line options override it.", rich_help_panel=SETTINGS_PANEL),
]

MovedData: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="New place of the data, if you moved them.",
        rich_help_panel=DATA,
        autocompletion=completion.data,
    ),
]
MovedDataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="New folder of torchvision's downloads.", rich_help_panel=DATA),
]
"""Of commands that need the data of a search that is over."""

Address: TypeAlias = Annotated[
    str | None, typer.Option(help="Address of a running Ray cluster: auto, HOST:PORT.", rich_help_panel=PLACE)
]
RunsDir: TypeAlias = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Folder of the experiments.")]
RunsDirOfFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--runs-dir", metavar="DIR", help="Folder of the experiments. Default: runs.", rich_help_panel=PLACE),
]
"""Of commands that take an experiment's file, which may name one."""

TrackingUri: TypeAlias = Annotated[
    str | None,
    typer.Option(help="MLflow server or database; none: no tracking. Default: RUNS/mlflow.db.", rich_help_panel=PLACE),
]
Trust: TypeAlias = Annotated[
    bool,
    typer.Option("--trust", help="Run code that the experiment names. Read docs/explanation/security.md first."),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the answer as JSON on stdout, and nothing else there.")
]
"""Read by `main` before any command runs, so that nothing reaches stdout too early."""
