"""The command `spaces`: the search spaces that are shipped."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from nasforge.cli.describe import architectures
from nasforge.cli.options import Json
from nasforge.cli.output import Outcome, line, size_json, table
from nasforge.settings.space_file import load_space, shipped_spaces
from nasforge.views.texts import size_text


def spaces(as_json: Json = False) -> Outcome:
    """List the search spaces that come with NASForge.

    [bold]Examples[/bold]

    \b
    nasforge spaces
    nasforge spaces --json
    """
    content: list[dict[str, Any]] = []
    for name, path in shipped_spaces().items():
        space = load_space(path)
        comment = takewhile(lambda text: text.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        about = " ".join(text.strip("# ") for text in comment)
        content.append(
            {
                "name": name,
                "decisions": len(space.domains),
                **size_json("networks", architectures(space)),
                "about": about,
                "file": str(path),
            }
        )
    rows = [[row["name"], str(row["decisions"]), size_text(row["networks"]), row["about"]] for row in content]
    table("Search spaces", ("name", "decisions", "networks", "about"), rows)
    line("More of one: nasforge describe NAME. Your own: docs/howto/search_spaces.md")
    return Outcome({"spaces": content})
