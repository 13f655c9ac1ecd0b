"""Which MLflow experiment a search gets, what its runs are called, and the view that a link opens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made_journal import header, mixed, trial, write
from test_mlflow import Driver, client_of, runs_of

from nasforge.core.events import TestOpened
from nasforge.experiment.state import load_state
from nasforge.views.mlflow.client import POOL, PREFIX
from nasforge.views.mlflow.page import link, share_key
from nasforge.views.mlflow.position import read_ids
from nasforge.views.mlflow.tracker import track


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POOL, raising=False)
    monkeypatch.delenv(PREFIX, raising=False)


def experiments_of(runs_dir: Path) -> list[str]:
    experiments = client_of(f"sqlite:///{runs_dir}/mlflow.db").search_experiments()
    return sorted(experiment.name for experiment in experiments if experiment.name != "Default")


def test_a_taken_or_deleted_name_is_followed_by_a_number_and_that_is_said(runs_dir: Path) -> None:
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    client.create_experiment("made")
    client.delete_experiment(client.create_experiment("made (2)"))
    driver = Driver(runs_dir / "made")
    driver.write([header(), *trial(0)])
    driver.close()
    assert experiments_of(runs_dir) == ["made", "made (3)"]
    (note,) = driver.messages
    assert "'made (3)'" in note
    (parent,), children = runs_of(runs_dir)
    assert (parent.info.run_name, children["0"].info.run_name) == ("made (3)", "made (3) #0")


def test_a_copied_experiment_gets_runs_of_its_own(runs_dir: Path) -> None:
    folder = write(runs_dir / "first", mixed(2))
    track(folder)
    shutil.copytree(folder, runs_dir / "second")
    write(runs_dir / "second", trial(2))
    track(runs_dir / "second")
    write(folder, trial(2))
    assert track(folder) == len(trial(2))
    assert experiments_of(runs_dir) == ["first", "second"]
    assert {name: len(runs) for name, runs in runs_of_each(runs_dir)} == {"first": 4, "second": 4}


def runs_of_each(runs_dir: Path) -> list[tuple[str, list[Any]]]:
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiments = [experiment for experiment in client.search_experiments() if experiment.name != "Default"]
    return [(experiment.name, client.search_runs([experiment.experiment_id])) for experiment in experiments]


def test_a_search_that_an_earlier_version_tracked_keeps_its_place(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(2))
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiment = client.create_experiment("nasforge")
    parent = client.create_run(experiment, run_name="made", tags={"nasforge.key": "abc"}).info.run_id
    store = {"key": "abc", "experiment_id": experiment, "parent_run_id": parent, "delivered": 1, "open": {}}
    (folder / "tracking.json").write_text(json.dumps({"schema": 1, "stores": {"default": store}}))
    track(folder)
    assert experiments_of(runs_dir) == ["nasforge"]
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert sorted(run.info.run_name for run in children) == ["trial 0", "trial 1"]


def test_variables_pool_the_runs_and_go_in_front(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX, "/Users/me/")
    track(write(runs_dir / "first", [header("first"), *trial(0)]))
    monkeypatch.setenv(POOL, "shared")
    track(write(runs_dir / "second", [header("second"), *trial(0)]))
    assert experiments_of(runs_dir) == ["/Users/me/first", "shared"]
    names = {name: sorted(run.info.run_name for run in runs) for name, runs in runs_of_each(runs_dir)}
    assert names == {"/Users/me/first": ["first", "first #0"], "shared": ["second", "second #0"]}


def test_the_link_opens_a_view_with_the_columns_that_matter(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(2))
    track(folder)
    mine = read_ids(folder)["stores"]["default"]
    experiment = client_of(f"sqlite:///{runs_dir}/mlflow.db").get_experiment(mine["experiment_id"])
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{share_key(mine['key'])}"])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val/accuracy`", False)
    assert view["selectedColumns"][:2] == ["metrics.`val/accuracy`", "metrics.`cost/flops`"]
    assert link("http://127.0.0.1:5000/", mine["experiment_id"], mine["key"]).endswith(share_key(mine["key"]))


def test_another_store_than_before_is_said(runs_dir: Path, migrated: Path) -> None:
    folder = write(runs_dir / "made", mixed(1))
    track(folder)
    shutil.copy(migrated, runs_dir / "other.db")
    driver = Driver(folder, uri=f"sqlite:///{runs_dir}/other.db")
    driver.write(trial(1))
    driver.close()
    (note,) = driver.messages
    assert "mlflow.db in the runs folder" in note
    assert "other.db" in note


def test_retrained_networks_have_roles_and_costs_and_the_search_the_mean(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(3))
    best = load_state(folder).best
    assert best is not None and best.architecture is not None
    name = best.architecture.short_id
    names = [f"{name}-seed0-e9", f"{name}-seed1-e9", f"resnet-for-{name}-seed0-e9", "ensemble-of-2-abc"]
    recipe = {"batch_size": 128, "cutout_pixels": 8, "unheard_of": 1}  # the first is the default
    about = {"trained": {"seed": 1, "epochs": 9, "role": "found", "recipe": recipe}, "metrics": {"cost/params": 7.0}}
    place = folder / "finalists" / names[1]
    place.mkdir(parents=True)
    (place / "network.json").write_text(json.dumps(about))
    write(folder, [TestOpened(one, {"test/accuracy": 0.9 + 0.01 * index}) for index, one in enumerate(names)])
    track(folder)
    (parent,), children = runs_of(runs_dir)
    roles = [children[one].data.tags["nasforge.role"] for one in names]
    assert roles == ["found", "found", "reference", "ensemble"]
    assert children[names[1]].data.metrics == {"test/accuracy": 0.91, "cost/params": 7.0}
    assert children[names[1]].data.params == {"seed": "1", "epochs": "9", "train.cutout_pixels": "8"}
    metrics = parent.data.metrics
    assert metrics["test/accuracy"] == pytest.approx(0.905)
    assert metrics["test/accuracy_low"] < 0.905 < metrics["test/accuracy_high"]
    assert metrics["reference/test/accuracy"] == pytest.approx(0.92)


def test_further_references_have_their_names_in_the_metrics_of_the_search(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed(3))
    best = load_state(folder).best
    assert best is not None and best.architecture is not None
    name = best.architecture.short_id
    asked = {"ResNet-8-x1": "resnet", "VGG-16-BN-x0.1": "vgg", "resnet18": "timm:resnet18"}
    tested = []
    for index, (label, reference) in enumerate(asked.items()):
        finalist = f"{label}-for-{name}-seed0-e9"
        place = folder / "finalists" / finalist
        place.mkdir(parents=True)
        about = {"trained": {"role": "reference", "reference": reference}, "metrics": {}}
        (place / "network.json").write_text(json.dumps(about))
        tested.append(TestOpened(finalist, {"test/accuracy": 0.5 + 0.1 * index}))
    write(folder, tested)
    track(folder)
    (parent,), children = runs_of(runs_dir)
    metrics = parent.data.metrics
    assert [metrics[f"reference/{place}test/accuracy"] for place in ("", "vgg/", "timm_resnet18/")] == [
        pytest.approx(value) for value in (0.5, 0.6, 0.7)
    ]
    assert children[f"VGG-16-BN-x0.1-for-{name}-seed0-e9"].data.tags["nasforge.role"] == "reference"
