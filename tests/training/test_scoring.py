import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from nasforge.data.split import Split
from nasforge.tasks.metrics import EXTRA, by_class, extra_among, figures
from nasforge.tasks.task import Answers
from nasforge.training.scoring import answers, score


class Fixed(nn.Module):
    """Logits read from the first pixel: the answers are known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[x[:, 0, 0, 0].round().long()]


def test_figures_by_hand():
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(2, 2)
    split = Split(pixels, np.arange(4), torch.tensor([0, 0, 1, 2]), 3, mean=(0.0,), std=(1 / 255,))
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 2.0]])  # answers 0, 1, 1, 2
    network = Fixed(logits).train()
    scores = score(network, split, batch_size=3)
    assert scores["accuracy"] == 0.75
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    right, wrong = -np.log(np.exp(2) / (np.exp(2) + 2)), -np.log(1 / (np.exp(2) + 2))
    assert scores["loss"] == pytest.approx((3 * right + wrong) / 4, rel=1e-5)
    assert network.training


def test_scoring_changes_no_statistics():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(4, 3)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 1, 2), dtype=np.uint8)
    score(network, Split(pixels, np.arange(9), torch.arange(9) % 3, 3, (0.5,), (0.2,)))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


def known():
    """Three of four right; class 3 has no image."""
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(2, 2)
    split = Split(pixels, np.arange(4), torch.tensor([0, 0, 1, 2]), 4, mean=(0.0,), std=(1 / 255,))
    logits = torch.tensor([[2.0, 0, 0, -1], [-0.5, 2.0, 0, -1], [0, 2.0, 0, -1], [0, 0, 2.0, -1]])
    return answers(Fixed(logits), split)


def test_figures_on_request_by_hand():
    assert set(figures(known())) == {"accuracy", "loss", "f1_macro"}
    scores = figures(known(), EXTRA)
    assert scores["precision_macro"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert scores["recall_macro"] == scores["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    # class 0: one image above both others, one below both; class 1: above two, below the one mistaken for it
    assert scores["roc_auc"] == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert set(figures(known(), ["roc_auc"])) == {"accuracy", "loss", "f1_macro", "roc_auc"}


def test_answers_that_name_a_class_without_images_give_no_warning():
    pixels = np.arange(2, dtype=np.uint8)[:, None, None, None].repeat(2, 2)
    split = Split(pixels, np.arange(2), torch.tensor([0, 1]), 3, mean=(0.0,), std=(1 / 255,))
    answered = answers(Fixed(torch.tensor([[0.0, 0, 2], [0, 2, 0]])), split)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = figures(answered, EXTRA)
    assert scores["balanced_accuracy"] == 0.5


def test_a_class_by_its_number_is_a_figure_too():
    scores = figures(known(), ["recall_of_0", "precision_of_1", "f1_of_0", "recall_of_3", "recall_of_x"])
    assert {key: scores[key] for key in scores if "_of_" in key} == {
        **{"recall_of_0": 0.5, "precision_of_1": 0.5, "f1_of_0": pytest.approx(2 / 3), "recall_of_3": 0.0}
    }
    assert extra_among(["val/f1_of_12", "val/accuracy", "cost/flops", "val/f1_of_12"]) == ("f1_of_12",)


def test_figures_by_class_and_the_confusion():
    classes = by_class(known(), ["ant", "bee", "cat", "dog"])
    assert classes["confusion"] == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    ant = {"class": "ant", "images": 2, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    assert classes["classes"][0] == ant
    assert classes["classes"][3]["images"] == 0


def test_numbers_that_are_none_give_none():
    answered = known()
    answered.probabilities[0] = np.nan
    assert np.isnan(figures(answered, ["roc_auc"])["roc_auc"])


@pytest.mark.parametrize("classes", [1, 2, 10, 150])
def test_accuracy_and_f1_are_those_of_scikit_learn_to_the_last_bit(classes):
    rng = np.random.default_rng(classes)
    for images in (1, 3, 47, 360):
        truth, probabilities = rng.integers(0, classes, images), rng.random((images, classes))
        probabilities[np.arange(images), truth] += rng.random(images) < 0.6
        values, chosen = figures(Answers(truth, probabilities, 0.5)), probabilities.argmax(1)
        options = {"average": "macro", "labels": np.unique(truth), "zero_division": 0.0}
        assert values["f1_macro"] == f1_score(truth, chosen, **options)
        assert values["accuracy"] == accuracy_score(truth, chosen)
