"""The command `strategies`: plug-ins by name, with their options."""

from __future__ import annotations

import json
from typing import Any

from nasforge import registry
from nasforge.cli.options import Json
from nasforge.cli.output import Outcome, line, table
from nasforge.core.errors import NasforgeError
from nasforge.views.plain import plain

_KINDS = {
    "strategy": "strategies",
    "pruner": "pruners",
    "evaluator": "evaluators",
    "proxy": "proxies",
    "runner": "runners",
    "exporter": "exporters",
}
"""Kinds of plug-ins that a command's options name -> their title."""


def strategies(as_json: Json = False) -> Outcome:
    """List strategies, pruners, evaluators, zero-cost proxies, runners and export formats with their options.

    [bold]Examples[/bold]

    \b
    nasforge strategies
    nasforge search tiny --data digits --strategy evolution --set strategy.population=20
    """
    content: dict[str, Any] = {}
    for kind, title in _KINDS.items():
        components = [_row(kind, name) for name in registry.names(kind)]
        content[title] = components
        rows = [
            [row["name"], row["about"], ", ".join(f"{key}={_typed(value)}" for key, value in row["options"].items())]
            for row in components
        ]
        table(title.capitalize(), ("name", "what", "options"), rows)
    line("Set an option with --set, as in: --set strategy.population=20")
    return Outcome(content)


def _row(kind: str, name: str) -> dict[str, Any]:
    try:
        about, options = registry.describe(kind, name).about, registry.options_of(kind, name)
    except NasforgeError as error:
        return {"name": name, "about": f"not available: {error}", "options": {}}
    return {"name": name, "about": about, "options": plain(options)}


def _typed(value: Any) -> str:
    """Return a default as it would be typed; where there is none, a dash."""
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)
