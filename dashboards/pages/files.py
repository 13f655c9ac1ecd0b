"""The files that an experiment offers for download."""

from __future__ import annotations

from dataclasses import dataclass

from nasforge.dashboards.library import Entry


@dataclass(frozen=True)
class Offered:
    """A file to download: its path in the experiment's folder, and its bytes."""

    path: str
    size: int


def files_of(entry: Entry) -> list[Offered]:
    """The files of a result: networks, exports, reports. None that a link leads out of the folder."""
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
