"""The files that an experiment offers for download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasforge.core.paths import file_inside
from nasforge.dashboards.library import Entry, has_address
from nasforge.views.explained import FOLDER, stored

MOST_EXPLAINED = 24
"""Images whose explanations one page shows at most."""


@dataclass(frozen=True)
class Offered:
    """A file to download: its path in the experiment's folder, and its bytes."""

    path: str
    size: int


def files_of(entry: Entry) -> list[Offered]:
    """Return the files of a result: networks, exports, reports. None that a link leads out of the folder."""
    offered = []
    patterns = (
        "best/*",
        "exported/*",
        "finalists/*/*",
        "report.html",
        "comparison.*",
        "plan.yaml",
        "README.md",
        "*.onnx",
        "*.csv",
    )
    for pattern in patterns:
        for path in sorted(entry.folder.glob(pattern)):
            relative = path.relative_to(entry.folder)
            if path.name == "checkpoint.pt" or not has_address(str(relative)):
                continue
            if (file := file_inside(entry.folder, relative)) is not None:
                offered.append(Offered(relative.as_posix(), file.stat().st_size))
    return offered[:400]


def explanations(entry: Entry) -> list[Mapping[str, Any]]:
    """Return what `nasforge explain` has stored, each with `pictures`: the title and the path of every picture."""
    shown = list[Mapping[str, Any]]()
    for content in list(stored(entry.folder))[:MOST_EXPLAINED]:
        pictures = [("the image", content["input"]), (f"what speaks for {content['explained']}", content["heat"])]
        pictures += [
            (f"{stage['channels']} maps of {stage['height']} x {stage['width']}", stage["picture"])
            for stage in content["stages"]
        ]
        paths = [(title, f"{content['folder']}/{file}") for title, file in pictures if file.endswith(".png")]
        there = [
            (title, path)
            for title, path in paths
            if has_address(path) and file_inside(entry.folder / FOLDER, path) is not None
        ]
        shown.append({**content, "pictures": there})
    return shown
