"""A fit in MLflow: its leaderboard as runs with roles, in one experiment with the trials of its search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_journal import mixed, write
from test_mlflow import client_of

from nasforge.api.fit import fit
from nasforge.api.fit.log import FitLog
from nasforge.api.track import track, track_results
from nasforge.core.layout import FIT, SEARCH
from nasforge.settings.experiment import load_space

ROWS = (
    ("found (trial 2)", "found", 0.82, 2),
    ("plain ResNet (trial 0)", "reference", 0.80, 0),
    ("mobilenet", "pretrained", 0.79, None),
    ("SVM", "sklearn", 0.7, None),
    ("largest class", "majority", 0.3, None),
)


def row(name: str, kind: str, value: float, trial: int | None) -> dict[str, Any]:
    network = kind in ("found", "reference", "pretrained")
    return {
        "name": name,
        "kind": kind,
        "val": {"accuracy": value, "f1_macro": value - 0.1},
        "test": {"accuracy": value - 0.05},
        "test_ci95": {"accuracy": [value - 0.1, value]},
        "params": 900.0 if network else None,
        "flops": 8000.0 if network else None,
        "seconds": 3.5,
        "trial": trial,
    }


def content_of(rows: tuple[tuple[str, str, float, int | None], ...] = ROWS) -> dict[str, Any]:
    return {"rows": [row(*one) for one in rows], "winner": rows[0][0], "reason": "the best on the folds"}


def finish(folder: Path, content: Mapping[str, Any]) -> None:
    lines = [{"kind": "begun", "schema": 1, "inputs": {"source": "/data/photos"}}] if not folder.is_dir() else []
    folder.mkdir(exist_ok=True)
    with (folder / FIT).open("a") as file:
        for line in (*lines, {"kind": "finished", "seconds": 60.0, "content": content}):
            file.write(json.dumps({**line, "at": 0.0, "used": 0.0}) + "\n")


@pytest.fixture
def search(runs_dir: Path) -> Path:
    finish(runs_dir / "cells", content_of())
    return write(runs_dir / "cells" / SEARCH, mixed(3))


def runs_of(runs_dir: Path) -> dict[str, Any]:
    client = client_of(f"sqlite:///{runs_dir}/mlflow.db")
    experiment = client.get_experiment_by_name("cells")
    every = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in every}
    assert len(runs) == len(every), "two runs of one name"
    return runs


def uri_of(runs_dir: Path) -> str:
    return f"sqlite:///{runs_dir}/mlflow.db"


def test_every_row_is_a_run_next_to_the_trials(runs_dir: Path, search: Path) -> None:
    assert track(search, uri_of(runs_dir)) == len(mixed(3)) + len(ROWS) + 1  # the drawing of the front
    runs = runs_of(runs_dir)
    assert set(runs) == {"cells", *(f"cells #{number}" for number in range(3)), *(f"cells {one[0]}" for one in ROWS)}
    roles = [runs[f"cells {name}"].data.tags["nasforge.role"] for name, *_ in ROWS]
    assert roles == ["found", "reference", "baseline", "baseline", "baseline"]
    winner = runs["cells found (trial 2)"]
    assert winner.data.metrics == {
        **{"val/accuracy": 0.82, "val/f1_macro": pytest.approx(0.72), "test/accuracy": pytest.approx(0.77)},
        **{"test/accuracy_low": pytest.approx(0.72), "test/accuracy_high": 0.82},
        **{"cost/params": 900.0, "cost/flops": 8000.0, "time/train_s": 3.5},
    }
    assert (winner.info.status, winner.info.end_time - winner.info.start_time) == ("FINISHED", 3500)
    assert winner.data.params == {**runs["cells #2"].data.params, "kind": "found", "trial": "2"}
    assert winner.data.tags["nasforge.arch_id"] == runs["cells #2"].data.tags["nasforge.arch_id"]
    assert [name for name, run in runs.items() if run.data.tags.get("nasforge.winner") == "true"] == [
        "cells found (trial 2)"
    ]
    assert runs["cells SVM"].data.params == {"kind": "sklearn"}


def test_the_run_of_the_search_has_drawings_and_pages(runs_dir: Path, search: Path) -> None:
    (runs_dir / "cells" / "report.html").write_text("<p>")
    (search / "figures").mkdir()
    (search / "figures" / "importance.html").write_text("<p>")
    space = load_space("tiny")
    about = {"space": space.to_json(), "architecture": space.default_point().to_json(), "shape": [1, 8, 8]}
    (runs_dir / "cells" / "best").mkdir()
    (runs_dir / "cells" / "best" / "network.json").write_text(json.dumps({**about, "class_names": ["a", "b"]}))
    track(search, uri_of(runs_dir))
    client, run = client_of(uri_of(runs_dir)), runs_of(runs_dir)["cells"].info.run_id
    files = {file.path for path in ("", "figures") for file in client.list_artifacts(run, path)}
    assert files == {"report.html", "figures", "figures/importance.html", "front.svg", "network.svg"}
    for name in ("front.svg", "network.svg"):
        drawing = ElementTree.parse(client.download_artifacts(run, name, str(runs_dir))).getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg" and len(drawing) > 5
    (runs_dir / "cells" / "report.html").write_text("<p>2")
    assert track(search, uri_of(runs_dir)) == 1, "only what has changed"


def test_the_run_of_the_search_has_the_winner_and_the_images(runs_dir: Path, search: Path) -> None:
    track(search, uri_of(runs_dir))
    runs = runs_of(runs_dir)
    summary = runs["cells"]
    assert summary.data.tags["nasforge.role"] == "search"
    assert summary.data.tags["nasforge.winner"] == "found (trial 2)"
    assert summary.data.metrics["test/accuracy"] == pytest.approx(0.77)
    assert {run.inputs.dataset_inputs[0].dataset.name for run in (summary, runs["cells SVM"])} == {"photos"}


def test_rows_are_delivered_once_and_those_of_an_earlier_end_are_marked(runs_dir: Path, search: Path) -> None:
    track(search, uri_of(runs_dir))
    assert track(search, uri_of(runs_dir)) == 0
    finish(runs_dir / "cells", content_of((("found (trial 1)", "found", 0.9, 1), *ROWS[1:])))
    track(search, uri_of(runs_dir))
    runs = runs_of(runs_dir)
    assert runs["cells found (trial 1)"].data.tags["nasforge.winner"] == "true"
    earlier = runs["cells found (trial 2)"].data.tags
    assert (earlier["nasforge.status"], earlier["nasforge.winner"]) == ("superseded", "false")
    assert runs["cells"].data.tags["nasforge.winner"] == "found (trial 1)"


def test_a_fit_delivers_its_leaderboard_at_its_end(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(log: FitLog, request: object, seconds: float, uri: str, say: object) -> None:
        write(log.folder / SEARCH, mixed(3))
        track(log.folder / SEARCH, uri)
        log.write("finished", seconds=seconds, content={**content_of(), "exported": {}})

    monkeypatch.setattr("nasforge.api.fit.run.run", run)
    texts: list[str] = []
    fit("digits", name="cells", runs_dir=runs_dir, time=60, say=texts.append)
    assert "cells SVM" in runs_of(runs_dir)
    assert texts == []


def test_trouble_at_the_end_is_a_sentence(runs_dir: Path, search: Path) -> None:
    texts: list[str] = []
    track_results(search, uri_of(runs_dir), texts.append)
    assert texts == [], "the tracker of the search has said it"
    track(search, uri_of(runs_dir))
    (runs_dir / "mlflow.db").write_text("no database")
    track_results(search, uri_of(runs_dir), texts.append)
    (text,) = texts
    assert "nasforge track cells" in text


def test_the_run_of_a_search_has_its_report(runs_dir: Path) -> None:
    folder = write(runs_dir / "made", mixed())
    track(folder, uri_of(runs_dir))
    client = client_of(uri_of(runs_dir))
    (experiment,) = client.search_experiments(filter_string="name = 'made'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`nasforge.role` = 'search'")
    text = Path(client.download_artifacts(run.info.run_id, "report.html", str(runs_dir))).read_text()
    assert "Trial 7 is the best of 5" in text and "Not computed for this page" in text
    assert track(folder, uri_of(runs_dir)) == 0, "the same page is not sent again"
