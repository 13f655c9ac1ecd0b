"""The command `dashboard`: open the web page over a runs folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasforge.cli.options import RunsDir
from nasforge.cli.output import Outcome, line
from nasforge.core.paths import whole_path


def dashboard(
    runs_dir: RunsDir = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
) -> Outcome:
    """Start the web page with all experiments: leaderboard, Pareto front, learning curves, failures.

    [bold]Examples[/bold]

    \b
    nasforge dashboard
    nasforge dashboard --runs-dir runs --port 8600
    """
    from nasforge.dashboards.launch import launch

    line(f"The dashboard is at http://127.0.0.1:{port}; Ctrl-C ends it.")
    return Outcome(code=launch(whole_path(runs_dir), port))
