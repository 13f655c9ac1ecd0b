"""The files of a search or fit in MLflow: artifacts of the run that holds the summary."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from nasforge.core.errors import TrackingError
from nasforge.core.layout import REPORT
from nasforge.core.tracking_uri import tracking_uri
from nasforge.core.uri import without_password
from nasforge.experiment.journal import fit_of
from nasforge.experiment.state import State
from nasforge.views import charts
from nasforge.views.mlflow.client import MlflowClient, reason
from nasforge.views.mlflow.position import delivery_locked, ids_of, read_ids, write_ids
from nasforge.views.mlflow.threads import within
from nasforge.views.svg import standalone
from nasforge.views.tables import front_axes

NETWORK, FRONT = "network.svg", "front.svg"
_WRITTEN = (REPORT, "calibration.html", "calibration.json", "calibration.png")


def files_of(folder: Path) -> dict[str, Path]:
    """Return the pages and pictures that other commands have written: the artifact's path -> the file."""
    place = fit_of(folder) or folder
    files = {name: place / name for name in _WRITTEN}
    files |= {f"figures/{page.name}": page for page in sorted((folder / "figures").glob("*.html"))}
    return {name: file for name, file in files.items() if file.is_file()}


def front_svg(state: State) -> str:
    """Return the drawing of the front: both objectives, or the only one over a cost; empty where nothing is drawn."""
    x, y = front_axes(state)
    return standalone(charts.front_chart(state, lambda number: "", x, y))


def log_files(folder: Path, uri: str | None, files: Mapping[str, Path], limit_s: float = math.inf) -> int:
    """Send the files that MLflow has not, or has another content of.

    Args:
        folder: of the search, which was delivered.
        uri: of the store; None for the default one.
        files: the artifact's path -> the file.
        limit_s: the longest that this takes.

    Returns:
        The number of files sent.

    Raises:
        TrackingError: another process delivers the search, or the artifacts' store takes nothing, or not in time.
    """
    full = tracking_uri(uri, folder.parent)
    with delivery_locked(folder):
        try:
            ids = read_ids(folder)
            mine = ids_of(ids, full, folder.parent)
            before = json.loads(mine["files"] or "{}")
            now = {name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for name, file in files.items()}
            changed = {name: files[name] for name, digest in now.items() if before.get(name) != digest}
            if not changed:
                return 0
            client = MlflowClient(tracking_uri=full)

            def send() -> None:
                for name, file in changed.items():
                    client.log_artifact(mine["parent_run_id"], str(file), name.rpartition("/")[0] or None)

            if math.isinf(limit_s):
                send()
            else:
                within(limit_s, send)
            mine["files"] = json.dumps({**before, **now})
            write_ids(folder, ids)
            return len(changed)
        except Exception as error:  # whatever a server, a file system or a store of objects throws
            if isinstance(error, TrackingError):
                raise
            raise TrackingError(
                f"MLflow at {without_password(full)} takes no files ({reason(error, full)})", kind="failed"
            ) from None
