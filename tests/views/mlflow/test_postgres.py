"""MLflow as a laboratory has it: a server with users and passwords, over PostgreSQL, with a store of artifacts."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from expecting import raises
from made_journal import mixed, write
from servers import mlflow_server, postgres
from test_insertion import facts_of
from test_mlflow import client_of, runs_of

from nasforge.api.retrain import retrain
from nasforge.api.search import search
from nasforge.api.track import track as track_all
from nasforge.core.errors import TrackingError
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.tracking_uri import VARIABLE
from nasforge.experiment.state import load_state
from nasforge.testing.toys import Planted, toy_config
from nasforge.views.mlflow import delivery
from nasforge.views.mlflow.tracker import track

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

USER, PASSWORD, WRONG = "ann", "twelve-plain-words", "eleven-plain-words"
SPACE = SearchSpace(
    "small",
    (
        Decision("model.activation", Choice(("relu",))),
        Decision("model.stage0.width", Choice((4, 6, 8))),
        Decision("model.stage0.layer0.block", Choice(("residual", "separable_3"))),
        Decision("train.learning_rate", Float(0.05, 0.2, log=True)),  # no trial repeats another
    ),
    builder="staged",
    arguments={"strides": [2], "stem_width": 4, "layers": 1},
    defaults={"train.batch_size": 64, "train.precision": "fp32"},
)


@dataclass
class Laboratory:
    """A server with the user `ann`, who is no administrator.

    Attributes:
        address: of the server, without credentials.
        databases: URI of the cluster; the name of a database belongs after it.
        artifacts: folder of the server's artifacts.
    """

    address: str
    databases: str
    artifacts: Path


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    for package in ("flask_wtf", "psycopg2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install psycopg2-binary 'mlflow[auth]'")
    place = tmp_path_factory.mktemp("laboratory")
    with postgres("mlflow", "users", "direct", "mirror") as databases:
        settings = place / "auth.ini"
        settings.write_text(
            "[mlflow]\ndefault_permission = READ\nadmin_username = root\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            f"database_uri = {databases}/users\n"
            "auth_cache_ttl_seconds = 60\n"  # else each request computes a hash of the password for a quarter second
        )
        variables = {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": "thirteen-plain-words",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key for forms",
        }
        with mlflow_server(place, f"{databases}/mlflow", "--app-name=basic-auth", variables=variables) as address:
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv("MLFLOW_TRACKING_USERNAME", "root")
                patched.setenv("MLFLOW_TRACKING_PASSWORD", "thirteen-plain-words")
                from mlflow.server import get_app_client

                get_app_client("basic-auth", tracking_uri=address).create_user(USER, PASSWORD)
            yield Laboratory(address, databases, place / "artifacts")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def runs_by_name(address: str, name: str) -> dict[str, Any]:
    client = client_of(address)
    experiment = client.get_experiment_by_name(name)
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_search_and_its_winner(laboratory: Laboratory, tmp_path: Path) -> None:
    messages: list[str] = []
    state = search(
        space=SPACE,
        data={"source": "digits", "images": 600},
        strategy="random",
        runner="local",
        pruner="none",
        epochs=1,
        budget={"trials": 2},
        tracking_uri=laboratory.address,
        name="cells",
        runs_dir=str(tmp_path),
        say=messages.append,
    )
    folder = tmp_path / "cells"
    assert [text for text in messages if "MLflow" in text] == []
    runs = runs_by_name(laboratory.address, "cells")
    assert set(runs) == {"cells", "cells #0", "cells #1"}
    assert {name: run.data.tags["nasforge.role"] for name, run in runs.items()} == {
        "cells": "search",
        "cells #0": "trial",
        "cells #1": "trial",
    }
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    trial = state.trials[0]
    assert runs["cells #0"].data.metrics["val/accuracy"] == trial.metrics["val/accuracy"]
    assert runs["cells #0"].data.params["model.stage0.width"] == str(trial.architecture.values["model.stage0.width"])
    (data,) = runs["cells"].inputs.dataset_inputs
    assert data.dataset.name == "digits"

    notes: list[str] = []
    retrain(folder, seeds=1, epochs=1)
    assert track_all(folder, say=notes.append) > 0
    assert len(notes) == 1 and "models:/cells@best" in notes[0]
    client = client_of(laboratory.address)
    runs = runs_by_name(laboratory.address, "cells")
    roles = [run.data.tags["nasforge.role"] for run in runs.values()]
    assert sorted(roles) == ["found", "reference", "search", "trial", "trial"]
    assert "test/accuracy" in runs["cells"].data.metrics
    search_id = runs["cells"].info.run_id
    assert {file.path for file in client.list_artifacts(search_id)} >= {"front.svg", "network.svg", "report.html"}
    assert [*laboratory.artifacts.rglob("report.html")], "the server keeps the artifacts in its own store"
    version = client.get_model_version_by_alias("cells", "best")
    assert version.run_id == search_id
    place = client.download_artifacts(search_id, "front.svg", str(tmp_path))
    assert "<svg" in Path(place).read_text()
    assert track_all(folder) == 0, "everything is there"


def planted(laboratory: Laboratory, runs_dir: Path, name: str, messages: list[str]) -> Path:
    """A search of five trials by a formula."""
    config = toy_config(runs_dir, tracking_uri=laboratory.address, name=name, budget={"trials": 5})
    search(config, made_evaluator=Planted(), say=messages.append)
    return runs_dir / name


@pytest.mark.parametrize("missing", [False, True])
def test_wrong_credentials_stop_no_search(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    name = "missing" if missing else "wrong"
    if missing:
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WRONG)
    messages: list[str] = []
    folder = planted(laboratory, tmp_path, name, messages)
    assert load_state(folder).counts()["finished"] == 5, "the search goes on"
    texts = [text for text in messages if "MLflow" in text]
    assert "refuses the user name or password" in texts[0]
    assert f"nasforge track {name}" in texts[-1] and "Nothing is lost" in texts[-1]
    assert all("MLFLOW_TRACKING_USERNAME" in text for text in texts)
    assert not any(WRONG in text for text in texts)
    with raises(TrackingError, "failed", None, "refuses the user name or password", "MLFLOW_TRACKING_PASSWORD"):
        track(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert track(folder) > 0
    assert set(runs_by_name(laboratory.address, name)) == {name, *(f"{name} #{number}" for number in range(5))}
    assert runs_by_name(laboratory.address, name)[name].info.status == "FINISHED"
    assert WRONG not in (folder / "journal.jsonl").read_text() + (folder / "tracking.json").read_text()


def test_credentials_in_the_uri_are_not_kept(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    folder = write(tmp_path / "inside", mixed())
    scheme, _, host = laboratory.address.partition("://")
    track(folder, f"{scheme}://{USER}:{PASSWORD}@{host}")
    assert PASSWORD not in (folder / "tracking.json").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert len(runs_by_name(laboratory.address, "inside")) == 9


def test_an_experiment_of_somebody_else_is_left_alone(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "root")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "thirteen-plain-words")
    client_of(laboratory.address).create_experiment("taken")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    notes: list[str] = []
    track(write(tmp_path / "taken", mixed()), laboratory.address, say=notes.append)
    assert len(notes) == 1 and "'taken (2)'" in notes[0]
    assert runs_by_name(laboratory.address, "taken") == {}
    assert len(runs_by_name(laboratory.address, "taken (2)")) == 9


def test_postgres_without_a_server_takes_whole_runs(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that NASForge inserts are those that MLflow's own calls write."""
    monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", str(tmp_path))
    notes: list[str] = []
    ours, mlflows = f"{laboratory.databases}/direct", f"{laboratory.databases}/mirror"
    track(write(tmp_path / "one" / "made", mixed()), ours, say=notes.append)
    monkeypatch.setattr(delivery, "insert_runs", lambda client, experiment, runs: None)
    track(write(tmp_path / "two" / "made", mixed()), mlflows, say=notes.append)
    assert notes == []
    assert len(runs_of(tmp_path, ours)[1]) == 8
    before, after = (json.dumps(facts_of(tmp_path, uri), default=repr, sort_keys=True) for uri in (ours, mlflows))
    assert before == after


def test_a_database_without_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pg8000", None)
    uri = "postgresql+pg8000://mlflow@127.0.0.1:1/mlflow"
    with raises(TrackingError, "failed", None, "the driver pg8000 is not installed", "Install pg8000"):
        track(write(tmp_path / "made", mixed()), uri)
