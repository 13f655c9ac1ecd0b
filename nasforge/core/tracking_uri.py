"""MLflow's store: the default, and the check of a user's URI."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nasforge.core import trust
from nasforge.core.command_line import quoted
from nasforge.core.errors import TrackingError
from nasforge.core.uri import SQLITE, sqlite_uri, with_absolute_file, without_password, without_secrets

DATABASE = "mlflow.db"
NO_TRACKING = "none"
VARIABLE = "MLFLOW_TRACKING_URI"
"""MLflow's own environment variable; a setting overrides it."""
_DATABASES = (SQLITE, "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")
_ALLOWED = (
    "Allowed: http://HOST:PORT, https://HOST, sqlite:///FILE.db, postgresql://..., mysql://..., mssql://..., "
    "databricks, or 'none' for no tracking; without the setting it is mlflow.db in the runs folder"
)


def chosen_uri(setting: str | None) -> str | None:
    """Return the URI of a setting or of the environment variable; SQLite files become absolute paths.

    Args:
        setting: from an option, a file or a call; None where it is left out.

    Returns:
        A URI, `none` for no tracking, or None for the default store.

    Raises:
        TrackingError: MLflow cannot keep runs there.
    """
    if setting is not None:
        return setting if setting == NO_TRACKING else _checked(setting)
    from_environment = os.environ.get(VARIABLE) or None
    if from_environment is None or from_environment == NO_TRACKING:
        return from_environment
    try:
        return _checked(from_environment)
    except TrackingError as error:
        raise TrackingError(
            f"environment variable {VARIABLE}, which applies without --tracking-uri: {error}",
            kind=error.kind,
            key=error.key,
        ) from None


def tracking_uri(uri: str | None, runs_dir: Path) -> str:
    """Return the complete URI: the default filled in, SQLite files as absolute paths.

    A stored URI has no password. Where the environment variable names the same place with one, that is used.

    Raises:
        TrackingError: MLflow cannot keep runs there.
    """
    if uri is None:
        return sqlite_uri(runs_dir.absolute() / DATABASE)
    full = _checked(uri)
    from_environment = os.environ.get(VARIABLE, "")
    return from_environment if without_secrets(from_environment) == full else full


def admit_store(uri: str | None, runs_dir: Path, option: str = "--trust") -> None:
    """Ask for consent to a store that a file names: a server gets results, and with them the user's credentials.

    The default store needs no consent, nor does the one that the environment variable names.

    Args:
        uri: as a journal has it.
        runs_dir: of the experiment.
        option: by which the user can agree.

    Raises:
        TrustError: the URI comes from a file, and the user has not agreed to it.
    """
    if uri is None or uri == NO_TRACKING:
        return
    shown = without_secrets(uri)
    if shown in (sqlite_uri(runs_dir.absolute() / DATABASE), without_secrets(os.environ.get(VARIABLE, ""))):
        return
    refusal = (
        f"a file in {runs_dir} sends results to {shown}, and you have not agreed to that on this machine. If you know "
        f"that store, add {option} to the command"
    )
    trust.admit_place(f"MLflow at {shown}", f"tracking_uri '{shown}'", refusal)


def _checked(uri: str) -> str:
    scheme, colon, rest = uri.partition(":")
    if uri == "databricks" or (scheme == "databricks" and rest.startswith("//")):
        return uri
    shown = without_password(uri)
    if scheme in _SERVERS and _host_of(uri):
        return uri
    if colon and scheme.partition("+")[0] in _DATABASES and rest.startswith("//"):
        return _sqlite(uri) if scheme.partition("+")[0] == SQLITE else uri
    if scheme in _SERVERS:
        raise TrackingError(
            f"tracking URI '{shown}' names no host, or a port that is no number. Write /, ?, # and @ in a password as "
            f"%2F, %3F, %23 and %40. {_ALLOWED}",
            kind="invalid",
            key="tracking_uri",
        )
    if scheme == "file" or not colon or uri.startswith(("/", ".", "~")):
        path = Path(unquote(rest.lstrip("/")) if scheme == "file" else uri) / DATABASE
        database = Path("/") / path if scheme == "file" and rest.startswith("/") else path
        raise TrackingError(
            f"tracking URI '{shown}' is a folder, and MLflow no longer keeps runs in folders. "
            f"Use a database: --tracking-uri {quoted([sqlite_uri(database)])}. {_ALLOWED}",
            kind="removed",
            key="tracking_uri",
        )
    raise TrackingError(
        f"tracking URI '{shown}': MLflow does not know '{scheme}:'. {_ALLOWED}", kind="unknown", key="tracking_uri"
    )


def _host_of(uri: str) -> str:
    """Return the host of a server's URI; empty if it has none or cannot be parsed."""
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018  (raises where the port is no number)
        return parts.hostname or ""
    except ValueError:
        return ""


def _sqlite(uri: str) -> str:
    _, separator, rest = uri.partition(":///")
    path, mark, settings = rest.partition("?")
    if not separator or not path or path.startswith(":memory:"):
        raise TrackingError(
            f"tracking URI '{without_password(uri)}' names no file, so its runs would be lost at the end. {_ALLOWED}",
            kind="missing",
            key="tracking_uri",
        )
    if path.startswith("file:") or (mark and not all(re.match(r"\w+=", part) for part in settings.split("&"))):
        raise TrackingError(
            f"tracking URI '{uri}': expected a path, and settings of the form name=value after a '?'. "
            f"Write the path as it is, with %3F for each '?' in it. {_ALLOWED}",
            kind="invalid",
            key="tracking_uri",
        )
    return with_absolute_file(uri)
