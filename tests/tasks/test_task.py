"""A task of one's own: its loss is trained, its metrics are objectives, and retraining knows it."""

import json

import numpy as np
import pytest
import torch
from expecting import raises
from sklearn.metrics import cohen_kappa_score

import nasforge
from nasforge import registry
from nasforge.core.errors import ConfigError
from nasforge.settings.experiment import resolve
from nasforge.tasks.classification import CLASSIFICATION, Classification
from nasforge.tasks.task import Answers

SEEN = []


class Ordinal(Classification):
    """Classes in an order: far mistakes cost more, and Cohen's weighted kappa is a metric."""

    metrics = (*Classification.metrics, "kappa")

    def criterion(self, recipe, split, device):
        SEEN.append(len(split))
        entropy = super().criterion(recipe, split, device)

        def criterion(outputs, labels):
            places = torch.arange(outputs.shape[1], dtype=outputs.dtype)
            distance = (outputs.softmax(1) @ places - labels).abs().mean()
            return entropy(outputs, labels) + 0.1 * distance

        return criterion

    def scores(self, answers, extra=()):
        kappa = cohen_kappa_score(answers.truth, answers.chosen, weights="quadratic")
        return {**super().scores(answers, extra), "kappa": float(kappa)}


ORDINAL = Ordinal()
SETTINGS = {"space": "tiny", "data": {"source": "digits", "images": 200}, "strategy": "random", "runner": "local"}
SETTINGS |= {"tracking_uri": "none", "epochs": 1, "budget": {"trials": 1}, "start_from": "none"}


def test_a_search_and_its_retraining_have_the_loss_and_the_metrics_of_the_task(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["task"], "ordinal", f"{__name__}:ORDINAL")
    monkeypatch.syspath_prepend(tmp_path)
    SEEN.clear()
    state = nasforge.search(
        **SETTINGS, task="ordinal", objectives=["max:val/kappa"], runs_dir=tmp_path / "runs", name="a"
    )
    assert SEEN and -1 <= state.best.metrics["val/kappa"] <= 1
    header = json.loads((tmp_path / "runs" / "a" / "journal.jsonl").read_text().splitlines()[0])
    assert header["config"]["task"] == "ordinal"
    before = len(SEEN)
    nasforge.retrain(tmp_path / "runs" / "a", top=1, random=0, seeds=1, epochs=1, runner="local")
    assert len(SEEN) > before
    assert "test/kappa" in (tmp_path / "runs" / "a" / "journal.jsonl").read_text()


def test_classification_is_the_default_and_is_not_in_the_header():
    config = resolve(SETTINGS)
    assert config.task == config.spec.task == "classification" and "task" not in config.to_json()
    assert registry.get("task", config.task) is CLASSIFICATION


def test_an_unknown_task_is_refused():
    with raises(ConfigError, "unknown", "task", "classificaton", "classification"):
        resolve({**SETTINGS, "task": "classificaton"})
    with raises(ConfigError, "type", "task"):
        resolve({**SETTINGS, "task": 3})


@pytest.mark.parametrize("task", ["nasforge.tasks.classification:Classification", "json:dumps"])
def test_what_is_no_task_is_refused_before_there_is_a_journal(tmp_path, task):
    with raises(ConfigError, "type", "task", task):
        nasforge.search(**SETTINGS, task=task, runs_dir=tmp_path, name="a")
    assert not (tmp_path / "a").exists()


def test_it_decodes_and_scores_as_functions_of_its_answers():
    outputs, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    probabilities = CLASSIFICATION.decode(outputs).numpy()
    loss = float(CLASSIFICATION.loss(outputs, labels))
    assert np.isclose(loss, -np.log(probabilities[np.arange(3), labels]).sum())
    scores = CLASSIFICATION.scores(Answers(labels.numpy(), probabilities, loss / 3), ("recall_of_1",))
    assert set(scores) == {*CLASSIFICATION.metrics, "recall_of_1"} and np.isclose(scores["accuracy"], 2 / 3)
    assert CLASSIFICATION.requested(["val/roc_auc", "val/accuracy", "val/roc_auc"]) == ("roc_auc",)
