import html
import json

import pytest
import torch

from nasforge.api.report import search_report
from nasforge.api.search import search
from nasforge.cli.app import main
from nasforge.core.layout import JOURNAL
from nasforge.data import load_data
from nasforge.experiment.state import load_state
from nasforge.settings.experiment import DataConfig
from nasforge.views.learnt import nothing_learnt, sentences_about, too_coarse
from nasforge.views.reader import Reader
from nasforge.views.results import remarks
from tests.api.retrain.conftest import SPACE

LARGEST = 60 / 70
"""Share of the largest class, of 60 images in one class and 10 in another."""


def test_the_largest_class_must_be_beaten_beyond_chance():
    assert "0.8571" in nothing_learnt("val/accuracy", 60 / 70, 70, LARGEST, None)
    assert nothing_learnt("val/accuracy", 65 / 70, 70, LARGEST, None)  # 5 more of 70 may be luck
    assert nothing_learnt("val/accuracy", 1.0, 70, LARGEST, None) == ""


def test_the_reason_is_named():
    few, many = (nothing_learnt("val/accuracy", 0.8, 70, LARGEST, steps) for steps in (1, 500))
    assert "1 optimizer step only" in few and "--epochs" in few
    assert "labels" in many and "optimizer step" not in many


def test_a_split_is_too_coarse_when_it_is_small_or_the_trials_are_alike():
    assert "24 images" in too_coarse([0.9, 0.4], 24)
    assert too_coarse([0.9, 0.4], 1000) == ""
    assert "0.0010" in too_coarse([0.9, 0.899], 1000)
    assert too_coarse([0.9], 24) == ""


def test_a_search_says_it(tmp_path):
    messages: list[str] = []
    settings = {
        **{"space": SPACE, "data": {"source": "digits", "images": 100}, "strategy": "random", "runner": "local"},
        **{"epochs": 1, "pruner": "none", "tracking_uri": "none", "runs_dir": str(tmp_path), "name": "small"},
    }
    search(**settings, budget={"trials": 2}, say=messages.append)
    assert any(text.startswith("Nothing was learnt") and "1 optimizer step only" in text for text in messages)
    assert any("too coarse" in text for text in messages)


def test_every_view_says_it_from_the_files_alone(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        **{"space": SPACE, "data": {"source": "digits", "images": 100}, "strategy": "random", "runner": "local"},
        **{"epochs": 1, "pruner": "none", "tracking_uri": "none", "runs_dir": str(tmp_path), "name": "small"},
    }
    search(**settings, budget={"trials": 2}, say=lambda text: None)
    folder = tmp_path / "small"
    monkeypatch.setattr("nasforge.data.load_data", None)  # no view reads images
    counts = load_state(folder).header.image_counts
    assert (counts.train, counts.validated, counts.classes) == (90, 10, 10) and 0.1 <= counts.largest < 0.3
    verdict, coarse = sentences_about(load_state(folder))
    assert "10 images" in verdict and "too coarse" in coarse
    assert remarks(load_state(folder))[:2] == [verdict, coarse]
    capfd.readouterr()
    assert main(["show", "small", "--runs-dir", str(tmp_path)]) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert main(["show", "small", "--runs-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["remarks"][:2] == [verdict, coarse]
    reader = Reader(folder)
    reader.refresh()
    assert all(text in shown and html.escape(text) in search_report(reader) for text in (verdict, coarse))
    client = pytest.importorskip("fastapi.testclient").TestClient
    from nasforge.dashboards.app import create_app

    browser = client(create_app(tmp_path, reading_s=60.0), base_url="http://127.0.0.1")
    for page in ("small", "small/search"):
        text = html.unescape(browser.get(f"/{page}").text)
        assert verdict in text and coarse in text, page
    first, *others = (folder / JOURNAL).read_text().splitlines()
    header = json.loads(first)
    del header["image_counts"]  # as earlier versions wrote it
    (folder / JOURNAL).write_text("".join(line + "\n" for line in (json.dumps(header), *others)))
    assert sentences_about(load_state(folder)) == []
    assert sentences_about(load_state(folder), counts) == [verdict, coarse]


def test_counts_are_those_of_the_validated_images():
    data = load_data(DataConfig("digits"))
    counts, whole = data.counts(data.validation), data.counts(data.train_and_validation())
    sizes = torch.bincount(data.validation.labels)
    assert counts.validated == len(data.validation) and counts.largest == int(sizes.max()) / len(data.validation)
    assert whole.validated == len(data.train) + len(data.validation) and whole.train == counts.train
    assert counts.constant == max(counts.largest, 0.1)


def test_an_accuracy_of_one_on_few_images_has_an_interval_with_width() -> None:
    assert "an accuracy of 1.0000 has a 95 % interval of 0.6097 to 1.0000. Use" in too_coarse([1.0, 1.0], 6)
    assert "has a standard error of 0.0335, and" in too_coarse([0.9, 0.89], 80)
