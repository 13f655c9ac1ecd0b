"""MLflow's own client, set up for us, and what every use of it needs. The one place that imports mlflow."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from nasforge.core.errors import TrackingError
from nasforge.core.uri import hide_secrets, sqlite_file, without_password

__all__ = [
    "NO_ENDPOINT",
    "POOL",
    "PREFIX",
    "SOURCE",
    "MlflowClient",
    "MlflowException",
    "NewRun",
    "TablesRefused",
    "advice",
    "entities",
    "experiment_id",
    "experiment_of_key",
    "insert_runs",
    "reason",
    "save_pyfunc",
]

# Read by mlflow when it is imported; a user's own settings go first. Trying again is our own work, so requests do not.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
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


NO_ENDPOINT = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")
"""Error codes of a server that lacks a part of MLflow, such as the model registry."""

POOL, PREFIX = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_PREFIX"
"""Environment variables: one experiment for the runs of all searches; what every experiment's name begins with."""

_MOST_OF_A_NAME = 1000


def experiment_of_key(client: Any, uri: str, name: str, key: str) -> tuple[str, int]:
    """Return the id of the MLflow experiment of one search, made where it is missing, and the number in its name.

    A name that another experiment has, also a deleted one, is followed by a number: `cells (2)`. With
    `MLFLOW_EXPERIMENT_NAME` set all searches share that experiment.

    Args:
        client: of the store.
        uri: of the store.
        name: of the search.
        key: of the search; its experiment has it as a tag.

    Raises:
        TrackingError: the shared experiment is deleted, or the server makes none.
    """
    if os.environ.get(POOL):
        return experiment_id(client, uri), 1
    whole = os.environ.get(PREFIX, "") + name
    for number in range(1, _MOST_OF_A_NAME):
        numbered = whole if number == 1 else f"{whole} ({number})"
        experiment = client.get_experiment_by_name(numbered)
        if experiment is None:
            try:
                tags = {**_KIND, "nasforge.key": key, "nasforge.experiment": name}
                return str(client.create_experiment(numbered, artifact_location=_place(uri), tags=tags)), number
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(numbered)
        if experiment is None or not isinstance(experiment.name, str) or experiment.name != numbered:
            raise TrackingError(
                f"{without_password(uri)} answers with experiments that nobody asked for",
                kind="failed",
                key="tracking_uri",
            )
        if experiment.lifecycle_stage == "active" and experiment.tags.get("nasforge.key") == key:
            return str(experiment.experiment_id), number
    raise TrackingError(f"MLflow has {_MOST_OF_A_NAME} experiments '{whole}': delete some of them", kind="range")


def _place(uri: str) -> str | None:
    """Return the folder for artifacts next to a database, as a URI: MLflow decodes even what is written as a path."""
    database = sqlite_file(uri)
    return (database.parent / "mlartifacts").as_uri() if database else None


def experiment_id(client: Any, uri: str) -> str:
    """Id of the MLflow experiment that the runs of several searches share, made where it is missing.

    Raises:
        TrackingError: it is deleted, or can neither be found nor made.
    """
    name = os.environ.get(POOL) or "nasforge"
    for _ in range(2):
        existing = client.get_experiment_by_name(name)
        if existing is not None:
            if existing.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"MLflow's experiment '{name}' is deleted: restore it, or set MLFLOW_EXPERIMENT_NAME to another",
                    kind="conflict",
                    key=POOL,
                )
            return str(existing.experiment_id)
        try:
            return str(client.create_experiment(name, artifact_location=_place(uri), tags=_KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    raise TrackingError(f"MLflow's experiment '{name}' can neither be found nor made", kind="failed")


_REVISIONS = {"dc11669786a5": "3.17", "f4a9b2c7d1e6": "3.18"}
"""Revisions of MLflow's tables that `insert_runs` was tested with, and the first MLflow that has them."""


class TablesRefused(Exception):
    """The tables of a database take no runs at once: their revision is unknown, or they refuse a value."""


@dataclass(frozen=True)
class NewRun:
    """A run with all that is known of it, which nothing is added to soon.

    Attributes:
        name: shown in the UI, at most 250 characters.
        status: MLflow's.
        start_ms: milliseconds since the epoch.
        end_ms: likewise.
        tags: without the run's name.
        params: never change.
        metrics: (key, step, milliseconds since the epoch) -> a finite value.
    """

    name: str
    status: str
    start_ms: int
    end_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[tuple[str, int, int], float]


def insert_runs(client: Any, experiment: str, runs: Sequence[NewRun]) -> list[str] | None:
    """Insert whole runs into a database in one transaction, which takes a tenth of the time of MLflow's own calls.

    Those are three calls and some forty statements a run. The rows are the same, in tables of a revision that we know.

    Args:
        client: of the store.
        experiment: id of the experiment.
        runs: to insert.

    Returns:
        The runs' ids; None, and nothing is written, where the store is a server.

    Raises:
        TablesRefused: the tables have another revision, or refuse a value; nothing is written.
        MlflowException: the database cannot be reached, or breaks off; all runs may be written or none.
    """
    store = client._tracking_client.store
    if getattr(store, "ManagedSessionMaker", None) is None:
        return None
    from mlflow.store.tracking.dbmodels import models
    from sqlalchemy import insert, text
    from sqlalchemy.exc import SQLAlchemyError

    place = client.get_experiment(experiment).artifact_location.rstrip("/")
    ids = [uuid.uuid4().hex for _ in runs]
    tables: dict[Any, list[dict[str, Any]]] = {
        table: [] for table in (models.SqlRun, models.SqlTag, models.SqlParam, models.SqlMetric, models.SqlLatestMetric)
    }
    for run_id, run in zip(ids, runs, strict=True):
        row = {"run_uuid": run_id, "name": run.name, "experiment_id": int(experiment), "status": run.status}
        row |= {"start_time": run.start_ms, "end_time": run.end_ms, "artifact_uri": f"{place}/{run_id}/artifacts"}
        row |= {"source_type": "UNKNOWN", "source_name": "", "entry_point_name": "", "source_version": ""}
        tables[models.SqlRun].append({**row, "user_id": "unknown", "lifecycle_stage": "active"})
        tags = {**run.tags, "mlflow.runName": run.name}
        tables[models.SqlTag] += [{"run_uuid": run_id, "key": key, "value": text} for key, text in tags.items()]
        tables[models.SqlParam] += [{"run_uuid": run_id, "key": key, "value": text} for key, text in run.params.items()]
        latest: dict[str, dict[str, Any]] = {}
        for (key, step, at), value in sorted(run.metrics.items()):  # the last step of a key comes last
            latest[key] = {"key": key, "value": value, "timestamp": at, "step": step, "is_nan": False}
            latest[key]["run_uuid"] = run_id
            tables[models.SqlMetric].append(latest[key])
        tables[models.SqlLatestMetric] += latest.values()
    try:
        with store.ManagedSessionMaker(read_only=False) as session:
            revisions = session.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
            if not _REVISIONS.keys() >= {*revisions}:
                raise TablesRefused(
                    f"their revision is {' and '.join(revisions)}, and this version of NASForge knows those of MLflow "
                    f"{' and '.join(_REVISIONS.values())}"
                )
            for table, rows in tables.items():
                if rows:
                    session.execute(insert(table), rows)
    except (MlflowException, SQLAlchemyError, TypeError) as error:
        if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
            raise  # the database is away or locked, which says nothing about its tables
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TablesRefused(hide_secrets(lines[0], client.tracking_uri)[:200]) from None
    return ids


def save_pyfunc(
    place: Path,
    code: Path,
    onnx: Path,
    shape: Sequence[int],
    class_names: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:
    """Write a model in MLflow's format that runs an ONNX file with ONNX Runtime, without a pickle.

    Args:
        place: the folder to make.
        code: a script that calls `mlflow.models.set_model`.
        onnx: input `images`, output `logits`.
        shape: C, H, W of an image.
        class_names: in the order of the outputs.
        metadata: kept with the model, next to the class names.
    """
    import mlflow.pyfunc  # these take a second, and few searches end with a model
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    kind = np.dtype("float32")
    signature = ModelSignature(
        inputs=Schema([TensorSpec(kind, (-1, *shape))]),
        outputs=Schema([TensorSpec(kind, (-1, len(class_names)))]),
        params=ParamSchema([ParamSpec("output", DataType.string, "probabilities")]),
    )
    mlflow.pyfunc.save_model(
        str(place),
        python_model=str(code),
        artifacts={"network": str(onnx)},
        signature=signature,
        input_example=np.full((1, *shape), 0.5, dtype=kind),
        pip_requirements=[f"mlflow>={mlflow.__version__}", "onnxruntime", "numpy"],
        metadata={"class_names": list(class_names), **metadata},
    )


_STATUS = re.compile(r"error code (\d{3}) |^(\d{3}) (?:Client|Server) Error")
_CODES = {"UNAUTHENTICATED": 401, "CUSTOMER_UNAUTHORIZED": 401, "PERMISSION_DENIED": 403}


def reason(error: Exception, uri: str) -> str:
    """Return the first line of what went wrong at `uri`, short enough for a message and without its secrets."""
    text = hide_secrets(str(error), uri).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if _status(error) == HTTPStatus.UNAUTHORIZED:
        return "it refuses the user name or password"
    if _status(error) == HTTPStatus.FORBIDDEN:
        return "it refuses this user the permission"
    if isinstance(error, ModuleNotFoundError):
        return f"the driver {error.name} is not installed"
    if "Connection refused" in line:
        return "connection refused"
    if "timeout" in line.lower() or "timed out" in line:
        return "it does not answer in time"
    return line[:200]


def advice(error: Exception) -> str:
    """Return what the user must do before MLflow takes a delivery, in the imperative; empty where waiting may help."""
    if _status(error) == HTTPStatus.UNAUTHORIZED:
        return "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if _status(error) == HTTPStatus.FORBIDDEN:
        return "Ask the server's administrator for the permission to edit"
    if isinstance(error, ModuleNotFoundError):
        return f"Install {error.name}, or name another driver in the URI"
    return ""


def _status(error: Exception) -> int:
    """Return the HTTP status that an error of MLflow's or of an upload comes from; 0 where it names none."""
    match = _STATUS.search(str(error))
    named = _CODES.get(str(getattr(error, "error_code", "")), 0)
    return int(match[1] or match[2]) if match else named
