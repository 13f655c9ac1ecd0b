"""A training's checkpoint: whole or absent, continued by the training that wrote it or, knowingly, by another trial."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nasforge.core.errors import DataError, SearchError
from nasforge.core.recipe import CHANGEABLE

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


def continued(path: Path, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The state that another trial's training ended with, to go on from.

    Args:
        path: its checkpoint, already known to be unchanged.
        lineage: this training's `recipe`, `course` and `network`, as checkpoints hold them.

    Raises:
        DataError: the file cannot be read.
        SearchError: it is of another network, of another ladder, or of a recipe that may not change on the way.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = state["lineage"]
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).partition("\n")[0]
        raise DataError(f"checkpoint {path} cannot be read: {reason}; run the trial that wrote it again") from error
    if found["network"] != lineage["network"]:
        raise SearchError(
            f"checkpoint {path} is of another network: a training goes on with the same model.* decisions"
        )
    if found["course"] != lineage["course"]:
        raise SearchError(f"checkpoint {path} was trained on another ladder or on other images")
    before, now = found["recipe"], lineage["recipe"]
    changed = [name for name in {**now, **before} if now.get(name) != before.get(name) and name not in CHANGEABLE]
    if changed:
        said = ", ".join(f"{name} was {before.get(name, False)!r}, is {now.get(name, False)!r}" for name in changed)
        raise SearchError(
            f"checkpoint {path} cannot be continued: {said}. "
            f"What may change in mid-training: {', '.join(sorted(CHANGEABLE))}"
        )
    return state
