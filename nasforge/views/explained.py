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
_KEYS = {"image", "answer", "probability", "explained", "input", "heat", "stages"}


def stored(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the explanations below the folder of a fit or an experiment; incomplete ones are left out.

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
        if isinstance(content, dict) and set(content) >= _KEYS:
            yield {**content, "folder": file.parent.name}
