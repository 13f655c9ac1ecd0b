"""A training's checkpoint: whole or absent, and only ever continued by the training that wrote it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to a temporary name, force it to the disk, and rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path, identity: str) -> tuple[dict[str, Any] | None, bool]:
    """The state in `path`, and whether there was one that cannot be used.

    An unreadable checkpoint, or one of another training (`identity` differs), is said in the log and left aside: the
    training then starts again from its beginning.
    """
    if not path.exists():
        return None, False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).partition("\n")[0]
        log.warning("checkpoint %s cannot be read (%s); the training starts again from its beginning", path, reason)
        return None, True
    if found != identity:
        log.warning("checkpoint %s belongs to another training; this one starts from its beginning", path)
        return None, True
    return state, False
