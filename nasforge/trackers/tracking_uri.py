"""Where MLflow keeps its runs: the default store, the check of a user's URI, and the line that opens the UI."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from nasforge.core.errors import TrackingError

DATABASE = "mlflow.db"
_SQLITE = "sqlite:///"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_ALLOWED = (
    "Allowed: http://HOST:PORT, https://HOST, sqlite:///FILE.db, postgresql://..., mysql://..., mssql://..., "
    "databricks, or 'none' for no tracking; without the setting it is mlflow.db in the runs folder"
)


def tracking_uri(uri: str | None, runs_dir: Path) -> str:
    """The URI in full: the default filled in, SQLite files as absolute paths.

    Raises:
        TrackingError: MLflow cannot keep runs there.
    """
    if uri is None:
        return f"{_SQLITE}{runs_dir.absolute() / DATABASE}"
    scheme, colon, rest = uri.partition(":")
    if uri == "databricks" or (scheme == "databricks" and rest.startswith("//")):
        return uri
    if scheme in _SERVERS and urlsplit(uri).netloc:
        return uri
    if colon and scheme.partition("+")[0] in _DATABASES and rest.startswith("//"):
        return _sqlite_uri(uri) if scheme.startswith("sqlite") else uri
    if scheme in _SERVERS:
        raise TrackingError(f"tracking URI '{uri}' names no host. {_ALLOWED}")
    if scheme == "file" or not colon or uri.startswith(("/", ".", "~")):
        path = Path(rest.lstrip("/") if scheme == "file" else uri) / DATABASE
        shown = f"/{path}" if scheme == "file" and rest.startswith("/") else path
        raise TrackingError(
            f"tracking URI '{uri}' is a folder, and MLflow no longer keeps runs in folders. "
            f"Use a database: --tracking-uri {_SQLITE}{shown}. {_ALLOWED}"
        )
    raise TrackingError(f"tracking URI '{uri}': MLflow does not know '{scheme}:'. {_ALLOWED}")


def _sqlite_uri(uri: str) -> str:
    scheme, _, path = uri.partition(":///")
    if not path or path.startswith(":memory:"):
        raise TrackingError(f"tracking URI '{uri}' names no file, its runs would be lost at the end. {_ALLOWED}")
    return f"{scheme}:///{Path(path).expanduser().absolute()}"


def sqlite_file(uri: str) -> Path | None:
    """The database file of a URI from `tracking_uri`; None for a server."""
    scheme, _, path = uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme.startswith("sqlite") else None


def without_password(uri: str) -> str:
    """The URI as it may be shown and stored: without user name, password and query."""
    if not re.match(r"\w+(\+\w+)?://", uri) or uri.startswith("sqlite"):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def ui_command(uri: str | None, runs_dir: Path) -> str:
    """What opens the MLflow UI: a server's own address, or the line to type for a database.

    One worker and no job execution: the UI then starts in half the time and with six processes fewer.
    """
    full = tracking_uri(uri, runs_dir)
    if full.startswith(_SERVERS):
        return without_password(full)
    program = "mlflow" if shutil.which("mlflow") else str(Path(sys.executable).parent / "mlflow")
    settings = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    store = without_password(full)
    return f"{settings} {shlex.quote(program)} ui --backend-store-uri {shlex.quote(store)} --workers 1"
