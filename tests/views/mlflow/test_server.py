"""A real `mlflow server` on loopback: SQLite behind it, artifacts over HTTP, with a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_journal import mixed, write
from servers import mlflow_server
from test_campaigns import content_of as comparison
from test_fits import ROWS, content_of, finish
from test_mlflow import client_of
from test_models import winner  # noqa: F401  (a fixture)

from nasforge.api.track import track
from nasforge.core.layout import SEARCH
from nasforge.views.mlflow.campaigns import track_campaign
from nasforge.views.mlflow.models import Winner, register

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[str]:
    place = tmp_path_factory.mktemp("server")
    (place / "store.db").write_bytes(migrated.read_bytes())
    with mlflow_server(place, f"sqlite:///{place}/store.db") as address:
        yield address


def runs_of(uri: str, name: str) -> dict[str, Any]:
    client = client_of(uri)
    experiment = client.get_experiment_by_name(name)
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_fit_with_its_files_and_its_model(server: str, tmp_path: Path, winner: Winner) -> None:  # noqa: F811
    finish(tmp_path / "cells", content_of())
    (tmp_path / "cells" / "report.html").write_text("<p>report")
    search = write(tmp_path / "cells" / SEARCH, mixed(8))
    texts: list[str] = []
    track(search, server, say=texts.append)
    runs = runs_of(server, "cells")
    assert set(runs) == {"cells", *(f"cells #{number}" for number in range(8)), *(f"cells {one[0]}" for one in ROWS)}
    assert {runs[name].info.status for name in ("cells", "cells #2", "cells SVM")} == {"FINISHED"}
    assert runs["cells"].inputs.dataset_inputs[0].dataset.digest == "abc"
    client = client_of(server)
    assert client.get_experiment(runs["cells"].info.experiment_id).artifact_location.startswith("mlflow-artifacts:")
    place = client.download_artifacts(runs["cells"].info.run_id, "report.html", str(tmp_path))
    assert Path(place).read_text() == "<p>report"
    assert texts == []
    assert "models:/cells@best" in register(search, server, "cells", winner)
    version = client.get_model_version_by_alias("cells", "best")
    assert version.run_id == runs["cells"].info.run_id
    assert track(search, server) == 0


def test_a_campaign(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "camp"
    folder.mkdir()
    (folder / "comparison.html").write_text("<p>")
    assert track_campaign(folder, comparison("random", "x(a=1)"), server) == 7
    runs = runs_of(server, "camp")
    assert len(runs) == 7
    files = client_of(server).list_artifacts(runs["camp"].info.run_id)
    assert [file.path for file in files] == ["comparison.html"]
