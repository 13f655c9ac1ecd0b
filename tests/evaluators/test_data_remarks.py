"""What a user is told about their images before a search, and metrics that a split cannot tell."""

import json

import numpy as np
import pytest
import torch
from expecting import raises

import nasforge
from nasforge.api import compare as comparison
from nasforge.api.assembly import make_evaluator, preflight
from nasforge.api.retrain.networks import measure
from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.events import DECODING
from nasforge.core.goals import Objective
from nasforge.core.layout import JOURNAL
from nasforge.data import load_data
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space, resolve

SPACE = """\
name: one
builder: staged
arguments: {strides: [1, 2], layers: 1, stem_width: 4}
decisions:
  model: {activation: [relu], "stage{0..1}.width": [4, 8], "stage{0..1}.layer0.block": [residual, pair]}
  train: {learning_rate: {float: [0.03, 0.6], log: true}}
"""
SPLITS = {"train": "abc", "val": "ab", "test": "ac"}
ABSENT = "class 'c' has no validation images, so metrics leave them out"


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    """A folder `d` whose validation split lacks class c and whose test split lacks b, with a file that is not read."""
    from PIL import Image

    monkeypatch.setenv("NASFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    load_data.cache_clear()
    (tmp_path / "one.yaml").write_text(SPACE)
    noise = np.random.default_rng(0).integers(0, 40, (9, 8, 8), dtype=np.uint8)
    for split, names in SPLITS.items():
        for name in names:
            folder = tmp_path / "d" / split / name
            folder.mkdir(parents=True)
            for i, pixels in enumerate(noise):
                Image.fromarray(pixels + 70 * "abc".index(name)).save(folder / f"{i}.png")
    (tmp_path / "d" / "train" / "a" / "x.heic").write_text("not read")
    yield
    load_data.cache_clear()


def settings(**more):
    fixed = {"space": "one.yaml", "data": "d", "runner": "local", "epochs": 1, "budget": {"trials": 1}}
    recipe = {"batch_size": 8, "warmup_epochs": 0}
    return {**fixed, "recipe": recipe, "tracking_uri": "none", "strategy": "random", **more}


def test_notes_come_before_the_first_trial_and_once(tmp_path):
    messages = []
    for trials in (1, 2):
        nasforge.search(**settings(name="x", budget={"trials": trials}), say=messages.append)
    notes = [text for text in messages if text.startswith("Note: ")]
    assert len(notes) == 3
    assert "1 file(s) that are not read, left out: 1 .heic (the first is train/a/x.heic)." in notes[0]
    assert "class 'b' has no test images" in notes[1]
    assert ABSENT in notes[2]


@pytest.mark.parametrize("name", ["training", "repeated_seeds", "shared_weights"])
def test_every_evaluator_tells_them(name):
    strategy = "spos" if name == "shared_weights" else "random"
    remarks = make_evaluator(resolve(settings(evaluator=name, strategy=strategy))).about.notes
    assert any(".heic" in remark for remark in remarks)
    assert any(ABSENT in remark for remark in remarks)


def test_folds_and_proxies_need_no_validation_split():
    folds = make_evaluator(resolve(settings(evaluator="cross_validation"))).about.notes
    assert any(".heic" in remark for remark in folds)
    assert not any(ABSENT in remark for remark in folds)
    config = resolve(settings(evaluator="zero_cost", objectives=["zc/synflow"]))
    assert not any(ABSENT in remark for remark in make_evaluator(config).about.notes)


@pytest.mark.parametrize("metric", ["recall_of_2", "precision_of_2", "f1_of_2"])
def test_metrics_of_a_class_without_validation_images_are_refused(metric):
    extra = {"name": "training", "extra_metrics": [f"val/{metric}"]}
    for more in ({"objectives": [f"val/{metric}"]}, {"evaluator": extra}):
        config = resolve(settings(**more))
        with raises(ConfigError, "empty", f"val/{metric}", "c"):
            preflight(config, make_evaluator(config))


def test_metrics_of_other_classes_and_of_folds_are_measured():
    for more in ({"objectives": ["val/recall_of_1"]}, {"objectives": ["val/roc_auc"]}):
        config = resolve(settings(**more))
        preflight(config, make_evaluator(config))
    config = resolve(settings(objectives=["val/recall_of_2"], evaluator="cross_validation"))
    preflight(config, make_evaluator(config))


def test_the_area_under_the_curve_needs_two_classes(tmp_path):
    for file in (tmp_path / "d" / "val" / "b").iterdir():
        file.unlink()
    config = resolve(settings(objectives=["val/roc_auc"]))
    with raises(ConfigError, "empty", "val/roc_auc"):
        preflight(config, make_evaluator(config))


def test_a_one_shot_search_is_refused_too():
    config = resolve(settings(objectives=["val/recall_of_2"], strategy="spos"))
    with raises(ConfigError, "empty", "val/recall_of_2", "c"):
        preflight(config, make_evaluator(config))


def test_a_test_split_leaves_out_what_it_cannot_tell():
    objectives = [Objective("val/recall_of_1", True), Objective("val/recall_of_2", True)]
    space = load_space("one.yaml")
    network = build(space, space.default_point(), in_channels=1, classes=3)
    metrics = measure(network, DataConfig("d"), torch.device("cpu"), "none", objectives)
    assert {"test/accuracy", "test/recall_of_2"} <= {*metrics}
    assert "test/recall_of_1" not in metrics


@pytest.mark.parametrize("decoding", [None, str(DECODING)])
def test_a_search_on_images_that_were_read_differently_is_refused_with_that_reason(tmp_path, decoding):
    nasforge.search(**settings(name="x"), say=lambda text: None)
    journal = tmp_path / "runs" / "x" / JOURNAL
    first, *rest = journal.read_text().splitlines(keepends=True)
    header = json.loads(first)
    assert header["versions"].pop("decoding") == str(DECODING)
    header["data_hash"] = "of other pixels"
    if decoding:
        header["versions"]["decoding"] = decoding
    journal.write_text("".join([json.dumps(header) + "\n", *rest]))
    with raises(JournalError, "changed") as caught:
        nasforge.search(**settings(name="x", budget={"trials": 2}), say=lambda text: None)
    assert ("reads differently" in str(caught.value)) == (decoding is None)


def test_a_campaign_tells_them_once(monkeypatch):
    monkeypatch.setattr(comparison, "_report", lambda *args, **more: None)  # pages and pictures take seconds
    messages = []
    nasforge.compare(strategies="random", seeds=2, say=messages.append, **settings(strategy=None, name="c"))
    assert sum(ABSENT in text for text in messages) == 1
