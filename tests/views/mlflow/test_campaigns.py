"""A campaign in MLflow: one experiment with runs side by side, and the files; a repetition replaces the runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from mlflow.tracking import MlflowClient

from nasforge.api.compare import compare
from nasforge.api.track import track_comparison
from nasforge.cli.app import main
from nasforge.core.errors import JournalError, TrackingError
from nasforge.testing.toys import nested_space
from nasforge.views.mlflow import campaigns
from nasforge.views.mlflow.campaigns import track_campaign
from nasforge.views.mlflow.page import share_key
from nasforge.views.mlflow.position import read_ids


def content_of(*labels: str) -> dict[str, Any]:
    """A comparison of strategies over the seeds 0 and 1."""
    summary = {"mean": 0.6, "std": 0.1, "bound": None, "median": 0.6, "best": 0.7}
    return {
        "objectives": ["max:val/accuracy"],
        "axis": "trials",
        "end": 9.0,
        "strategies": {
            label: {
                "name": label.partition("(")[0],
                "options": {"a": 1} if "(" in label else {},
                "seeds": [0, 1],
                "experiments": [f"{label}-s0", f"{label}-s1"],
            }
            for label in labels
        },
        "curves": [{"label": label, "quantity": "signal", "x": [1.0, 2.0], "mean": [None, 0.6]} for label in labels],
        "rows": [
            {
                **{"at": 9.0, "quantity": "signal", "label": label, "summary": summary},
                **{"seeds": [0, 1], "values": [0.5, 0.7], "against_random": None},
            }
            for label in labels
        ],
        "to_optimum": [],
    }


@pytest.fixture
def folder(runs_dir: Path) -> Path:
    place = runs_dir / "camp"
    place.mkdir()
    (place / "comparison.json").write_text(json.dumps(content_of("random", "x(a=1)")))
    (place / "comparison.html").write_text("<p>")
    return place


def client_of(runs_dir: Path) -> Any:
    return MlflowClient(tracking_uri=f"sqlite:///{runs_dir / 'mlflow.db'}")


def runs_of(runs_dir: Path, experiment: str = "camp") -> dict[str, Any]:
    client = client_of(runs_dir)
    every = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    runs = {run.info.run_name: run for run in every}
    assert len(runs) == len(every), "two runs of one name"
    return runs


def test_campaign_strategies_and_searches_lie_side_by_side(folder: Path) -> None:
    assert track_comparison(folder) == 7
    runs = runs_of(folder.parent)
    roles = {name: run.data.tags["nasforge.role"] for name, run in runs.items()}
    searches = {f"camp {label} s{seed}": "search" for label in ("random", "x(a=1)") for seed in (0, 1)}
    assert roles == {"camp": "campaign", "camp random": "strategy", "camp x(a=1)": "strategy", **searches}
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs.values())
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    summary = runs["camp"]
    assert summary.data.params["axis"] == "trials"
    files = {file.path for file in client_of(folder.parent).list_artifacts(summary.info.run_id)}
    assert files == {"comparison.json", "comparison.html"}
    history = client_of(folder.parent).get_metric_history(runs["camp random"].info.run_id, "campaign/signal")
    assert [(point.step, point.value) for point in history] == [(2, 0.6)]
    assert runs["camp random"].data.metrics["campaign/signal/mean"] == 0.6
    search = runs["camp x(a=1) s1"].data
    assert search.params == {"strategy": "x", "strategy option.a": "1", "seed": "1", "search": "x(a=1)-s1"}
    assert search.metrics == {"campaign/signal": 0.7}


def test_the_view_shows_the_best_first(folder: Path) -> None:
    track_comparison(folder)
    experiment = client_of(folder.parent).get_experiment_by_name("camp")
    key = read_ids(folder)["stores"]["default"]["key"]
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{share_key(key)}"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`campaign/signal`", False)


def test_another_result_replaces_the_runs_and_the_same_one_changes_nothing(folder: Path) -> None:
    track_comparison(folder)
    before = {run.info.run_id for run in runs_of(folder.parent).values()}
    assert track_comparison(folder) == 0
    assert {run.info.run_id for run in runs_of(folder.parent).values()} == before
    (folder / "comparison.json").write_text(json.dumps(content_of("random")))
    assert track_comparison(folder) == 4
    assert set(runs_of(folder.parent)) == {"camp", "camp random", "camp random s0", "camp random s1"}


def test_a_campaign_of_an_earlier_version_moves_into_its_own_experiment(folder: Path) -> None:
    client = client_of(folder.parent)
    shared = client.create_experiment("nasforge")
    parent = client.create_run(shared, tags={"nasforge.key": "abc"}).info.run_id
    client.create_run(shared, tags={"mlflow.parentRunId": parent})
    store = {"key": "abc", "experiment_id": "", "parent_run_id": "", "delivered": 0, "open": {}}
    (folder / "tracking.json").write_text(json.dumps({"schema": 1, "stores": {"default": store}}))
    assert track_comparison(folder) == 7
    assert client.search_runs([shared]) == []
    assert len(runs_of(folder.parent)) == 7


def test_what_a_stop_has_left_is_delivered_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = campaigns._Delivery._write

    def stopped(self: Any, experiment: str, run: campaigns.CampaignRun) -> str:
        if run.name == "x(a=1)":
            raise KeyboardInterrupt
        return write(self, experiment, run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(campaigns._Delivery, "_write", stopped)
        track_comparison(folder)
    assert len(runs_of(folder.parent)) < 7
    assert track_comparison(folder) == 7
    assert len(runs_of(folder.parent)) == 7


def test_the_commands_take_a_campaign(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ["--runs-dir", str(folder.parent)]
    assert main(["track", "camp", *place]) == 0
    out = capfd.readouterr().out
    assert "7 runs of 'camp' delivered" in out and "nasforge mlflow camp" in out


def test_trouble_is_said(folder: Path) -> None:
    content = content_of("random")
    with raises(TrackingError, "failed"):
        track_campaign(folder, content, "http://127.0.0.1:9")
    with raises(TrackingError, "removed", "tracking_uri"):
        track_campaign(folder, content, "mlruns")
    (folder / "comparison.json").write_text("{}")
    with raises(JournalError, "unreadable", "comparison.json"):
        track_comparison(folder)
    (folder / "comparison.json").unlink()
    with raises(JournalError, "missing", "comparison.json"):
        track_comparison(folder)


def test_a_campaign_is_tracked_at_its_end(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.setattr("nasforge.views.comparison_page.write_picture", lambda comparison, path: None)
    comparison = compare(
        strategies="evolution",
        space=nested_space(),
        evaluator={"name": "compare_toys:Table"},
        epochs=1,
        budget={"trials": 5},
        seeds=2,
        runs_dir=runs_dir,
        name="camp",
    )
    runs = runs_of(runs_dir)
    labels = ("random", "evolution")
    assert set(runs) == {"camp", *(f"camp {x}" for x in labels), *(f"camp {x} s{n}" for x in labels for n in (0, 1))}
    row = next(row for row in comparison.rows if row.label == "evolution" and row.quantity == "final")
    assert runs["camp evolution"].data.metrics["campaign/final/mean"] == pytest.approx(row.summary.mean)
    assert runs["camp evolution s1"].data.metrics["campaign/final"] == pytest.approx(row.values[1])
