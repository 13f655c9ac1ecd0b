"""The files that an experiment offers for download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasforge.dashboards.library import Entry
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
    root = entry.folder.resolve()
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
            if path.name != "checkpoint.pt" and path.is_file() and path.resolve().is_relative_to(root):
                offered.append(Offered(path.relative_to(entry.folder).as_posix(), path.stat().st_size))
    return offered[:400]


def explanations(entry: Entry) -> list[Mapping[str, Any]]:
    """Return what `nasforge explain` has stored, each with `pictures`: the title and the path of every picture."""
    root = (entry.folder / FOLDER).resolve()
    shown = list[Mapping[str, Any]]()
    for content in list(stored(entry.folder))[:MOST_EXPLAINED]:
        pictures = [("the image", content["input"]), (f"what speaks for {content['explained']}", content["heat"])]
        pictures += [
            (f"{stage['channels']} maps of {stage['height']} x {stage['width']}", stage["picture"])
            for stage in content["stages"]
            if isinstance(stage, dict) and {"channels", "height", "width", "picture"} <= set(stage)
        ]
        inside = [
            (title, f"{content['folder']}/{file}")
            for title, file in pictures
            if isinstance(file, str)
            and file.endswith(".png")
            and (path := (root / content["folder"] / file).resolve()).is_relative_to(root)
            and path.is_file()
        ]
        shown.append({**content, "pictures": inside})
    return shown
