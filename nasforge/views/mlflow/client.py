"""MLflow's own client, set up for us, and what every use of it needs. The one place that imports mlflow."""

from __future__ import annotations

import os
from typing import Any

from nasforge.core.errors import TrackingError
from nasforge.core.uri import hide_secrets, sqlite_file

__all__ = ["SOURCE", "MlflowClient", "MlflowException", "entities", "experiment_id", "reason"]

# Read by mlflow when it is imported; a user's own settings go first. Trying again is our own work, so requests do not.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow.entities as entities  # noqa: E402
import mlflow.store.db.utils as database_store  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

# MLflow tries to open a database eleven times, three minutes in all, also one that is no database.
database_store.MAX_RETRY_COUNT = 2
# It makes the folder of a database by its encoded name; we have made the right one.
database_store._make_parent_dirs_if_sqlite = lambda uri: None

# Without it the UI opens on its pages for language models.
_KIND = {"mlflow.experimentKind": "custom_model_development"}

SOURCE = {"mlflow.source.name": "nasforge", "mlflow.source.type": "LOCAL"}
"""Tags of every run of ours."""


def experiment_id(client: Any, uri: str) -> str:
    """Id of the MLflow experiment that all runs of ours go to, made where it is missing.

    Raises:
        TrackingError: it is deleted, or can neither be found nor made.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nasforge"
    database = sqlite_file(uri)
    # As a URI: MLflow decodes even what is written as a path.
    place = (database.parent / "mlartifacts").as_uri() if database else None
    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"MLflow's experiment '{name}' is deleted: restore it, or set MLFLOW_EXPERIMENT_NAME to another"
                )
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name, artifact_location=place, tags=_KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    raise TrackingError(f"MLflow's experiment '{name}' can neither be found nor made")


def reason(error: Exception, uri: str) -> str:
    """The first line of what went wrong at `uri`, short enough for a message and without its secrets."""
    text = hide_secrets(str(error), uri).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if "Connection refused" in line:
        return "connection refused"
    if "timeout" in line.lower() or "timed out" in line:
        return "it does not answer in time"
    return line[:200]
