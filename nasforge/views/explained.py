"""Read the explanations that `nasforge explain` has stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = "explained"
"""Folder of all explanations, in the folder of the fit or the experiment."""
DESCRIPTION = "explanation.json"
"""File that describes one explanation; the pictures lie next to it."""
_TEXTS = ("image", "answer", "explained", "input", "heat")
_SIZES = ("channels", "height", "width")


def stored(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the explanations below the folder of a fit or an experiment; damaged ones are left out.

    Args:
        folder: of the fit or the experiment.

    Yields:
        The content of an explanation's file, with `folder`: the name of its folder below `explained`.
    """
    for file in sorted((folder / FOLDER).glob(f"*/{DESCRIPTION}")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, RecursionError, ValueError):
            continue
        if _is_whole(content):
            stages = [stage for stage in content["stages"] if _is_stage(stage)]
            yield {**content, "truth": content.get("truth"), "stages": stages, "folder": file.parent.name}


def _is_whole(content: Any) -> bool:
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in _TEXTS):
        return False
    probability: Any = content.get("probability")
    return (
        type(probability) in (float, int)
        and 0 <= probability <= 1
        and isinstance(content.get("stages"), list)
        and isinstance(content.get("truth"), str | None)
    )


def _is_stage(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and all(type(content.get(key)) is int for key in _SIZES)
        and isinstance(content.get("picture"), str)
    )
