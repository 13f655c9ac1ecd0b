"""The command `strategies`: plug-ins by name, with their options."""

from __future__ import annotations

from nasforge.cli.options import Json
from nasforge.cli.output import Outcome


def strategies(as_json: Json = False) -> Outcome:
    """List strategies, pruners, evaluators, runners and export formats with their options.

    [bold]Examples[/bold]

    \b
    nasforge strategies
    nasforge search tiny --data digits --strategy evolution --set strategy.population=20
    """
    from nasforge.cli import parts as cli_parts

    return cli_parts.parts()
