"""A campaign in MLflow: one parent, a child per strategy, the files; a repetition replaces it."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from nasforge.api.compare import compare
from nasforge.core.errors import TrackingError
from nasforge.testing.toys import nested_space
from nasforge.views.mlflow.campaigns import Child, track_campaign

CHILDREN = (
    Child("random", {"strategy": "random", "seeds": 3}, [("campaign/signal", 1, 0.5), ("campaign/signal", 2, 0.6)]),
    Child("x(a=1)", {"strategy": "x", "strategy option.a": 1}, [("campaign/signal", 1, float("nan"))]),
)


@pytest.fixture
def folder(runs_dir: Path) -> Path:
    place = runs_dir / "camp"
    place.mkdir()
    (place / "comparison.json").write_text("{}")
    (place / "comparison.html").write_text("<p>")
    return place


def test_parent_children_and_files(folder: Path) -> None:
    parent = track_campaign(folder, {"axis": "trials", "charged": 9.0}, CHILDREN, None)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    run = client.get_run(parent)
    assert run.info.run_name == "camp" and run.info.status == "FINISHED" and run.data.params["axis"] == "trials"
    assert {file.path for file in client.list_artifacts(parent)} == {"comparison.json", "comparison.html"}
    children = client.search_runs([run.info.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
    named = {child.info.run_name: child for child in children}
    assert set(named) == {"random", "x(a=1)"}
    history = client.get_metric_history(named["random"].info.run_id, "campaign/signal")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.6)]
    assert named["x(a=1)"].data.metrics == {} and named["x(a=1)"].data.params["strategy option.a"] == "1"


def test_a_repetition_replaces_the_runs(folder: Path) -> None:
    first = track_campaign(folder, {}, CHILDREN, None)
    second = track_campaign(folder, {}, CHILDREN[:1], None)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    experiment = client.get_run(second).info.experiment_id
    assert client.get_run(first).info.lifecycle_stage == "deleted"
    assert sorted(run.info.run_name for run in client.search_runs([experiment])) == ["camp", "random"]


def test_a_server_that_is_away_is_said(folder: Path) -> None:
    with pytest.raises(TrackingError, match="takes nothing"):
        track_campaign(folder, {}, CHILDREN, "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="is a folder"):
        track_campaign(folder, {}, CHILDREN, "mlruns")


def test_a_campaign_is_one_run_and_one_for_each_strategy(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.setattr("nasforge.views.comparison_page.write_picture", lambda found, path: None)
    found = compare(
        strategies="evolution",
        space=nested_space(),
        evaluator={"name": "compare_toys:Table"},
        epochs=1,
        budget={"trials": 5},
        seeds=2,
        runs_dir=runs_dir,
        name="camp",
    )
    client = MlflowClient(tracking_uri=f"sqlite:///{runs_dir / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("nasforge")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"camp", "random", "evolution"}, "none for a search"
    row = next(row for row in found.rows if row.label == "evolution" and row.quantity == "final")
    assert runs["evolution"].data.metrics["campaign/final/mean"] == pytest.approx(row.summary.mean)
