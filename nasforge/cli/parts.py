"""Behind `nasforge spaces` and `nasforge strategies`: what there is to choose from by name."""

from __future__ import annotations

import inspect
import json
from itertools import takewhile
from typing import Any

from nasforge import registry
from nasforge.cli.describe import architectures
from nasforge.cli.output import Outcome, line, size_json, size_text, table
from nasforge.core.errors import NasforgeError
from nasforge.settings.experiment import load_space, shipped_spaces
from nasforge.views.plain import plain

_FILLED_IN = {
    "strategy": ("space", "seed", "objectives", "targets", "ladder"),
    "pruner": ("ladder",),
    "evaluator": ("space", "data", "ladder", "recipe", "objectives"),
    "runner": ("experiment", "evaluator"),
}
"""Parameters that are no options: the platform fills them in."""


def spaces() -> Outcome:
    """The shipped search spaces."""
    found: list[dict[str, Any]] = []
    for name, path in shipped_spaces().items():
        space = load_space(path)
        comment = takewhile(lambda text: text.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        about = " ".join(text.strip("# ") for text in comment)
        found.append(
            {
                "name": name,
                "decisions": len(space.domains),
                **size_json("networks", architectures(space)),
                "about": about,
                "file": str(path),
            }
        )
    rows = [[row["name"], str(row["decisions"]), size_text(row["networks"]), row["about"]] for row in found]
    table("Search spaces", ("name", "decisions", "networks", "about"), rows)
    line("More of one: nasforge describe NAME. Your own: docs/howto/search_spaces.md")
    return Outcome({"spaces": found})


def parts() -> Outcome:
    """Everything that is chosen by name, with its options."""
    content: dict[str, Any] = {}
    for kind in ("strategy", "pruner", "evaluator", "proxy", "runner", "exporter"):
        found: list[dict[str, Any]] = []
        for name in registry.names(kind):
            try:
                thing = registry.get(kind, name)
            except NasforgeError as error:
                found.append({"name": name, "about": f"not available: {error}", "options": {}})
                continue
            about = (inspect.getdoc(thing) or "").partition("\n")[0]
            found.append({"name": name, "about": about, "options": options(kind, thing)})
        content[registry_title(kind)] = found
        rows = [
            [row["name"], row["about"], ", ".join(f"{key}={_typed(value)}" for key, value in row["options"].items())]
            for row in found
        ]
        table(registry_title(kind).capitalize(), ("name", "what", "options"), rows)
    line("Set an option with --set, as in: --set strategy.population=20")
    return Outcome(content)


def _typed(value: Any) -> str:
    """A default as it would be typed; where there is none, a dash."""
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value)


def registry_title(kind: str) -> str:
    """The plural of a kind."""
    return {"strategy": "strategies", "proxy": "proxies"}.get(kind, kind + "s")


def options(kind: str, thing: Any) -> dict[str, Any]:
    """Options that a user may set, and their defaults; None where there is none."""
    if kind not in _FILLED_IN:
        return {}
    found = {}
    for parameter in inspect.signature(thing).parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.name not in _FILLED_IN[kind]:
            found[parameter.name] = None if parameter.default is parameter.empty else plain(parameter.default)
    return found
