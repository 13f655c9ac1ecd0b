"""A comparison in MLflow: a parent run for the campaign with its files, a run per strategy with its mean curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasforge.core.errors import NasforgeError, TrackingError
from nasforge.core.tracking_uri import tracking_uri
from nasforge.core.uri import sqlite_file, without_password
from nasforge.views.mlflow.client import SOURCE, MlflowClient, MlflowException, entities, experiment_id, reason
from nasforge.views.mlflow.position import ids_of, one_creator, read_ids, write_ids
from nasforge.views.mlflow.runs import allowed_key

_FILES = ("comparison.json", "comparison.html", "comparison.png")
_BATCH = 900


@dataclass(frozen=True)
class Child:
    """The run of one strategy.

    Attributes:
        name: shown in the UI.
        params: never change.
        metrics: (key, step, value).
    """

    name: str
    params: Mapping[str, Any]
    metrics: Sequence[tuple[str, int, float]]


def track_campaign(folder: Path, params: Mapping[str, Any], children: Sequence[Child], uri: str | None) -> str:
    """Write a comparison to MLflow; the runs of an earlier one of the same campaign are deleted.

    Args:
        folder: of the campaign, with its files.
        params: of the parent run.
        children: one per strategy.
        uri: an MLflow tracking URI; None for `mlflow.db` in the runs folder.

    Returns:
        Id of the parent run.

    Raises:
        TrackingError: MLflow cannot keep runs there, or does not answer.
    """
    full = tracking_uri(uri, folder.parent)
    shown = without_password(full)
    try:
        with one_creator(sqlite_file(full)):
            client = MlflowClient(tracking_uri=full)
            experiment = experiment_id(client, full)
        ids = read_ids(folder)
        mine = ids_of(ids, full, folder.parent)
        _delete(client, experiment, mine["key"])
        write_ids(folder, ids)  # the key must be known before the run exists
        return _write(client, experiment, mine["key"], folder, params, children)
    except NasforgeError:
        raise
    except Exception as error:  # whatever a server, a database driver or the network throws
        raise TrackingError(f"MLflow at {shown} takes nothing ({reason(error, full)})") from None


def _delete(client: Any, experiment: str, key: str) -> None:
    for run in client.search_runs([experiment], f"tags.`nasforge.key` = '{key}'"):
        for child in client.search_runs([experiment], f"tags.mlflow.parentRunId = '{run.info.run_id}'"):
            client.delete_run(child.info.run_id)
        try:
            client.delete_run(run.info.run_id)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":  # somebody else deleted it
                raise


def _write(
    client: Any, experiment: str, key: str, folder: Path, params: Mapping[str, Any], children: Sequence[Child]
) -> str:
    tags = {"nasforge.key": key, "nasforge.campaign": folder.name, **SOURCE}
    parent = client.create_run(experiment, run_name=folder.name, tags=tags).info.run_id
    client.log_batch(parent, params=_params(params))
    for child in children:
        tags = {"mlflow.parentRunId": parent, "nasforge.strategy": child.name[:5000], **SOURCE}
        run = client.create_run(experiment, run_name=child.name, tags=tags).info
        client.log_batch(run.run_id, params=_params(child.params))
        metrics = [
            entities.Metric(allowed_key(name), value, run.start_time, step)
            for name, step, value in child.metrics
            if math.isfinite(value)
        ]
        for begin in range(0, len(metrics), _BATCH):
            client.log_batch(run.run_id, metrics=metrics[begin : begin + _BATCH])
        client.set_terminated(run.run_id)
    for name in _FILES:
        if (folder / name).is_file():
            client.log_artifact(parent, str(folder / name))
    client.set_terminated(parent)
    return str(parent)


def _params(content: Mapping[str, Any]) -> list[Any]:
    texts = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in content.items()}
    return [entities.Param(allowed_key(key), text[:500]) for key, text in texts.items()]
