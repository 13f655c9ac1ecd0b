import dataclasses

import pytest
import torch

from nasforge.api.search import search
from nasforge.data import load_data
from nasforge.settings.experiment import DataConfig
from nasforge.views.learnt import nothing_learnt, too_coarse
from tests.api.retrain.conftest import SPACE


@pytest.fixture
def cells():
    """60 images of one class and 10 of another."""
    split = load_data(DataConfig("digits")).train.subset(torch.arange(70))
    return dataclasses.replace(split, labels=(torch.arange(70) >= 60).long(), classes=2)


def test_the_largest_class_must_be_beaten_beyond_chance(cells):
    assert "0.857" in nothing_learnt("val/accuracy", 60 / 70, 70, cells, None)
    assert nothing_learnt("val/accuracy", 65 / 70, 70, cells, None)  # 5 more of 70 may be luck
    assert nothing_learnt("val/accuracy", 1.0, 70, cells, None) == ""


def test_the_reason_is_named(cells):
    few, many = (nothing_learnt("val/accuracy", 0.8, 70, cells, steps) for steps in (1, 500))
    assert "1 optimizer step only" in few and "--epochs" in few
    assert "labels" in many and "optimizer step" not in many


def test_a_split_is_too_coarse_when_it_is_small_or_the_trials_are_alike():
    assert "24 images" in too_coarse([0.9, 0.4], 24)
    assert too_coarse([0.9, 0.4], 1000) == ""
    assert "0.001" in too_coarse([0.9, 0.899], 1000)
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
