"""A comparison in MLflow: one experiment with runs of the campaign, of its strategies and of its searches."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasforge.core.architecture import digest
from nasforge.core.command_line import command_for
from nasforge.core.errors import JournalError, NasforgeError, TrackingError
from nasforge.core.goals import Objective
from nasforge.core.say import Say, silent
from nasforge.core.tracking_uri import tracking_uri
from nasforge.core.uri import sqlite_file, without_password
from nasforge.experiment.journal import dumps
from nasforge.experiment.places import COMPARISON
from nasforge.views.comparison_records import metrics_of, metrics_of_search
from nasforge.views.mlflow.client import (
    POOL,
    SOURCE,
    MlflowClient,
    MlflowException,
    entities,
    experiment_id,
    experiment_of_key,
    reason,
)
from nasforge.views.mlflow.page import view_tag
from nasforge.views.mlflow.position import (
    FLAT,
    delivery_locked,
    ids_of,
    is_copy,
    new_ids,
    one_creator,
    read_ids,
    write_ids,
)
from nasforge.views.mlflow.progress import Progress, ProgressLines
from nasforge.views.mlflow.runs import allowed_key

_FILES = (COMPARISON, "comparison.html", "comparison.png")
_BATCH = 900
_SIGNAL = "campaign/signal"


@dataclass(frozen=True)
class CampaignRun:
    """One run of a campaign.

    Attributes:
        name: what follows the campaign's name in MLflow; empty for the run of the campaign.
        role: `campaign`, `strategy` or `search`.
        params: never change.
        metrics: (key, step, value).
    """

    name: str
    role: str
    params: Mapping[str, Any]
    metrics: Sequence[tuple[str, int, float]] = ()


def read_comparison(folder: Path) -> dict[str, Any]:
    """Return the content of a campaign's `comparison.json`.

    Raises:
        JournalError: there is none, or it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
        campaign_runs(content)
    except FileNotFoundError:
        raise JournalError(
            f"{folder / COMPARISON}: this campaign has no result yet. Run: {command_for(folder, 'compare')}",
            kind="missing",
            key=COMPARISON,
        ) from None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        again = command_for(folder, "compare")
        raise JournalError(
            f"{folder / COMPARISON}: damaged ({type(error).__name__}). Write it again: {again}",
            kind="unreadable",
            key=COMPARISON,
        ) from None
    return content


def campaign_runs(content: Mapping[str, Any]) -> list[CampaignRun]:
    """Return the runs of a comparison, the one of the campaign first; `content` as in `comparison.json`."""
    strategies = content["strategies"]
    facts = {"objectives": ", ".join(content["objectives"]), "axis": content["axis"], "charged": content["end"]}
    runs = [CampaignRun("", "campaign", {**facts, "strategies": ", ".join(strategies)})]
    for label, about in strategies.items():
        options = {f"strategy option.{key}": value for key, value in about["options"].items()}
        params = {"strategy": about["name"], **options}
        runs.append(
            CampaignRun(label, "strategy", {**params, "seeds": len(about["seeds"])}, metrics_of(content, label))
        )
        for seed, experiment in zip(about["seeds"], about["experiments"], strict=True):
            metrics = metrics_of_search(content, label, seed)
            runs.append(
                CampaignRun(f"{label} s{seed}", "search", {**params, "seed": seed, "search": experiment}, metrics)
            )
    return runs


def track_campaign(
    folder: Path,
    content: Mapping[str, Any],
    uri: str | None,
    *,
    say: Say = silent,
    progress: Progress | None = None,
) -> int:
    """Write a comparison to MLflow, unless it is there; the runs of an earlier result of the same campaign are deleted.

    Args:
        folder: of the campaign, with its files.
        content: of its `comparison.json`.
        uri: an MLflow tracking URI; None for `mlflow.db` in the runs folder.
        say: takes what the user should know.
        progress: takes the number of runs that MLflow has, and of all; None for lines that `say` takes.

    Returns:
        The number of runs that were written.

    Raises:
        TrackingError: MLflow cannot keep runs there, does not answer, or another process delivers this campaign.
    """
    full = tracking_uri(uri, folder.parent)
    with delivery_locked(folder):
        try:
            lines = ProgressLines(say, folder.name, "runs", command_for(folder, "track"))
            return _Delivery(folder, full, say, progress or lines).deliver(content)
        except NasforgeError:
            raise
        except Exception as error:  # whatever a server, a database driver or the network throws
            raise TrackingError(
                f"MLflow at {without_password(full)} takes nothing ({reason(error, full)})", kind="failed"
            ) from None


class _Delivery:
    """One delivery of a campaign, which holds the lock."""

    def __init__(self, folder: Path, uri: str, say: Say, progress: Progress) -> None:
        self._folder, self._uri, self._say, self._progress = folder, uri, say, progress
        self._ids = read_ids(folder)
        self._mine = ids_of(self._ids, uri, folder.parent)
        if is_copy(folder, self._mine):
            self._mine.update(new_ids())
        self._mine["folder"] = str(folder.absolute())
        with one_creator(sqlite_file(uri)):
            self._client = MlflowClient(tracking_uri=uri)

    def deliver(self, content: Mapping[str, Any]) -> int:
        """Write the runs that are not there."""
        stamp = digest([dumps(content)])
        experiment = self._experiment(content)
        if self._mine["rows"] == stamp and self._runs_in(experiment):
            return 0
        self._delete(experiment)
        if self._mine["layout"] != FLAT:  # earlier versions wrote children into the experiment of all searches
            self._delete_children()
        self._mine.update(layout=FLAT, rows="")
        self._save()
        runs = campaign_runs(content)
        for place, run in enumerate(runs):
            self._progress(place, len(runs))
            run_id = self._write(experiment, run)
            if place == 0:
                self._mine["parent_run_id"] = run_id
        self._progress(len(runs), len(runs))
        for name in _FILES:
            if (self._folder / name).is_file():
                self._client.log_artifact(self._mine["parent_run_id"], str(self._folder / name))
        self._client.set_terminated(self._mine["parent_run_id"])
        self._mine.update(rows=stamp, status="FINISHED")
        self._save()
        return len(runs)

    def _experiment(self, content: Mapping[str, Any]) -> str:
        """Return the id of the campaign's experiment, made where it is missing."""
        with one_creator(sqlite_file(self._uri)):
            self._save()  # the key must be known before the experiment exists
            name = self._folder.name
            experiment, number = experiment_of_key(self._client, self._uri, name, self._mine["key"])
        self._mine["name"] = name if number == 1 else f"{name} ({number})"
        if number > 1 and self._mine["experiment_id"] != experiment:
            self._say(
                f"MLflow at {without_password(self._uri)} has an experiment '{name}' already, of another search or "
                f"deleted. The runs of this campaign go to '{self._mine['name']}'"
            )
        self._mine["experiment_id"] = experiment
        goal = Objective.recorded(content["objectives"][0])
        tag = view_tag(
            self._mine["key"],
            order=(f"metrics.`{_SIGNAL}`", not goal.maximise),
            columns=[
                *(f"metrics.`{key}`" for key in (_SIGNAL, f"{_SIGNAL}/std", "campaign/final", "campaign/test")),
                *(f"params.`{key}`" for key in ("strategy", "seed")),
                "tags.`nasforge.role`",
            ],
            pooled=bool(os.environ.get(POOL)),
        )
        with suppress(MlflowException):  # a view of the page is worth no trouble
            self._client.set_experiment_tag(experiment, *tag)
        return experiment

    def _runs_in(self, experiment: str, at_most: int = 1) -> list[Any]:
        condition = f"tags.`nasforge.key` = '{self._mine['key']}'"
        return list(self._client.search_runs([experiment], condition, max_results=at_most))

    def _delete(self, experiment: str) -> None:
        while runs := self._runs_in(experiment, _BATCH):
            for run in runs:
                self._client.delete_run(run.info.run_id)

    def _delete_children(self) -> None:
        shared = experiment_id(self._client, self._uri)
        for run in self._client.search_runs([shared], f"tags.`nasforge.key` = '{self._mine['key']}'"):
            for child in self._client.search_runs([shared], f"tags.mlflow.parentRunId = '{run.info.run_id}'"):
                self._client.delete_run(child.info.run_id)
            self._client.delete_run(run.info.run_id)

    def _write(self, experiment: str, run: CampaignRun) -> str:
        tags = {
            "nasforge.key": self._mine["key"],
            "nasforge.experiment": self._mine["name"],
            "nasforge.campaign": self._folder.name,
            "nasforge.role": run.role,
            **SOURCE,
        }
        name = f"{self._mine['name']} {run.name}".strip()
        info = self._client.create_run(experiment, run_name=name, tags=tags).info
        params = _params(run.params)
        metrics = [entities.Metric(allowed_key(key), value, info.start_time, step) for key, step, value in run.metrics]
        while params or metrics:
            self._client.log_batch(info.run_id, metrics=metrics[:_BATCH], params=params[:100])
            metrics, params = metrics[_BATCH:], params[100:]
        if run.role != "campaign":
            self._client.set_terminated(info.run_id)
        return str(info.run_id)

    def _save(self) -> None:
        write_ids(self._folder, self._ids)


def _params(content: Mapping[str, Any]) -> list[Any]:
    texts = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in content.items()}
    return [entities.Param(allowed_key(key), text[:500]) for key, text in texts.items()]
