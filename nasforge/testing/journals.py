"""Comparison of two searches by their events, without the parts that differ from run to run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nasforge.core.events import Asked, Checked, Reported, Told, event_to_json
from nasforge.core.trial import CHECKPOINT
from nasforge.experiment.journal import read_events

_TIMES = re.compile(r"^time/|latency")
_ATTEMPT = re.compile(r"attempt-\d+")


def comparable_events(folder: Path) -> list[dict[str, Any]]:
    """Return all that was asked, checked, reported and told, without times, seconds and attempts.

    A search that was stopped and continued has the same list as one that ran through, on one worker on a CPU. Budgets
    are left out, since a continued search may have another one; so are the hashes of checkpoints, which hold seconds.

    Args:
        folder: of an experiment.
    """
    events = (event for event in read_events(folder) if isinstance(event, (Asked, Checked, Reported, Told)))
    return [_plain(event_to_json(event)) for event in events]


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        if content.get("path", "").endswith(f"/{CHECKPOINT}.pt"):
            content = {"path": content["path"]}
        left_out = ("attempt", "worker_seconds")
        return {key: _plain(value) for key, value in content.items() if key not in left_out and not _TIMES.search(key)}
    if isinstance(content, (list, tuple)):
        return [_plain(item) for item in content]
    return _ATTEMPT.sub("attempt", content) if isinstance(content, str) else content
