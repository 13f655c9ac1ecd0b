"""The command `list`: one row per search, campaign, calibration and fit of a runs folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nasforge.cli import options
from nasforge.cli.output import Outcome, line, metric_text, table
from nasforge.core.checks import cut
from nasforge.core.command_line import command_line, runs_dir_option
from nasforge.core.errors import ConfigError
from nasforge.core.paths import whole_path
from nasforge.core.trust import view

_DEFAULT = Path("runs")


def list_all(runs_dir: options.RunsDir = _DEFAULT, as_json: options.Json = False) -> Outcome:
    """List all searches, campaigns, calibrations and fits with their state and best result.

    [bold]Examples[/bold]

    \b
    nasforge list
    nasforge list --runs-dir runs --json
    """
    from nasforge.api.listing import listing

    folder = whole_path(runs_dir)
    if not folder.is_dir() and runs_dir != _DEFAULT:
        raise ConfigError(
            f"--runs-dir {runs_dir}: there is no such folder. Name the folder of your experiments, or leave the option "
            f"out for {_DEFAULT}/",
            kind="missing",
            key="runs_dir",
        )
    with view():
        rows = listing(folder)
    if not rows:
        line(f"Nothing was searched in {runs_dir}/ yet. Begin with: {_first(runs_dir)}")
        return Outcome({"experiments": []})
    body = [(row["name"], row["kind"], row["state"], _date(row["started"]), _result(row)) for row in rows]
    columns = ("name", "kind", "state", "started", "result")
    table(f"Experiments in {runs_dir}/: {len(rows)}, latest first", columns, body, left=columns, narrow=True)
    for row in rows:
        if row["problem"]:
            line(f"{row['name']} cannot be read: {cut(row['problem'])}", "red")
    return Outcome({"experiments": rows})


def _first(runs_dir: Path) -> str:
    return command_line("fit", "digits", "--time", "60s", *runs_dir_option(runs_dir))


def _date(seconds: float | None) -> str:
    """Return the local day and minute; of another year the date."""
    if seconds is None:
        return "-"
    then = time.localtime(seconds)
    return time.strftime("%m-%d %H:%M" if then.tm_year == time.localtime().tm_year else "%Y-%m-%d", then)


def _result(row: dict[str, Any]) -> str:
    return "-" if row["value"] is None else f"{row['metric']} {metric_text(row['value'], row['metric'])}"
