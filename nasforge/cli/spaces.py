"""The command `spaces`: the search spaces that are shipped."""

from __future__ import annotations

from nasforge.cli.options import Json
from nasforge.cli.output import Outcome


def spaces(as_json: Json = False) -> Outcome:
    """List the search spaces that come with NASForge.

    [bold]Examples[/bold]

    \b
    nasforge spaces
    nasforge spaces --json
    """
    from nasforge.cli import parts as cli_parts

    return cli_parts.spaces()
