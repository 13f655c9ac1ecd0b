"""The command line, one file per command; `nasforge.cli:main` is the entry point that is installed."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, see `nasforge.cli.app.main`."""
    from nasforge.cli.app import main as run

    return run(arguments)
