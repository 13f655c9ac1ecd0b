import time

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from nasforge.api.fit import baselines
from nasforge.data import load_data
from nasforge.evaluators.cross_validation import in_folds
from nasforge.settings.experiment import DataConfig

DATA = DataConfig("digits", images=240, validation=0.2)


@pytest.fixture(scope="module")
def splits():
    return in_folds(load_data(DATA), 3, DATA)


def test_every_image_is_answered_once_by_a_model_that_has_not_seen_it(splits):
    answers = {name: answered for name, answered, _ in baselines.on_folds(splits, 60.0, 0)}
    assert list(answers) == [baselines.MAJORITY, *baselines.MODELS]
    pool = load_data(DATA).train_and_validation()
    truth = dict(zip(pool.index.tolist(), pool.labels.tolist(), strict=True))
    for name, (places, probabilities) in answers.items():
        assert sorted(places.tolist()) == sorted(truth)
        assert np.allclose(probabilities.sum(1), 1)
        right = np.mean(
            [truth[place] == chosen for place, chosen in zip(places.tolist(), probabilities.argmax(1), strict=True)]
        )
        assert right > 0.85 if name in baselines.MODELS else right < 0.3


def test_those_that_would_take_too_long_are_left_out(splits):
    assert [name for name, _, _ in baselines.on_folds(splits, 0.0, 0)] == [baselines.MAJORITY]


def test_on_the_test_split_features_are_computed_once_and_answers_are_as_without_that(monkeypatch):
    data = load_data(DATA)
    train, test, computed = data.train, data.validation, []
    known = (baselines.features(train), train.labels.numpy())
    expected = {
        name: baselines.answer(make, known, baselines.features(test), 10, 0) for name, make in baselines.MODELS.items()
    }

    def counted(split, features=baselines.features):
        computed.append(split)
        return features(split)

    monkeypatch.setattr(baselines, "features", counted)
    asked = baselines.OnTest(train, 0)
    assert np.array_equal(asked.answers(baselines.MAJORITY, test), baselines.majority(train, test))
    assert computed == []
    for name, answers in expected.items():
        assert np.array_equal(asked.answers(name, test), answers)
    assert computed == [test, train]


def test_a_class_that_a_model_has_not_seen_has_hardly_a_probability():
    x, y = np.eye(4, dtype=np.float32), np.array([0, 0, 2, 2])
    probabilities = baselines.answer(baselines.MODELS["random forest"], (x, y), x, 3, 0)
    assert probabilities.shape == (4, 3) and (probabilities[:, 1] < 0.01).all()


def test_colours_are_among_the_features():
    import torch

    from nasforge.data.split import Split

    pixels = np.zeros((2, 3, 20, 20), np.uint8)
    pixels[1, 0] = 255
    split = Split(pixels, np.arange(2), torch.tensor([0, 1]), 2, (0.5,) * 3, (0.2,) * 3)
    features = baselines.features(split)
    assert features.shape == (2, 3 * 16 * 16 + 3 * 8 + 64)
    assert not np.array_equal(features[0], features[1])


def test_a_slow_classifier_of_many_images_is_left_out_before_it_learns_from_all(monkeypatch):
    sizes = []

    class Slow:
        def fit(self, x, y):
            sizes.append(len(x))

        def predict(self, x):
            time.sleep(0.01)
            return np.zeros(len(x), int)

    data = load_data(DataConfig("digits", validation=0.2))
    monkeypatch.setattr(baselines, "MODELS", {"slow": lambda seed: Slow()})
    monkeypatch.setattr(baselines, "_TIMED", 100)
    splits = [(data.train, data.validation)]
    names = [name for name, _, _ in baselines.on_folds(splits, 3.0, 0, tested=100_000)]
    assert names == [baselines.MAJORITY] and sizes == [100]


def test_of_very_many_classes_only_the_forest_is_measured(splits, monkeypatch):
    monkeypatch.setattr(baselines, "_MOST_CLASSES", 9)
    assert [name for name, _, _ in baselines.on_folds(splits, 60.0, 0)] == [baselines.MAJORITY, baselines.FOREST]


def test_the_svm_answers_as_scikit_learn_s(monkeypatch):
    monkeypatch.setattr(baselines, "_PIECE", 7)
    data = load_data(DATA)
    x, asked = baselines.features(data.train), baselines.features(data.validation)
    plain = make_pipeline(StandardScaler(), SVC(C=10.0, random_state=0)).fit(x, data.train.labels.numpy())
    ours = baselines.SVM(0).fit(x, data.train.labels.numpy())
    assert np.array_equal(ours.predict(asked), plain.predict(asked))
    assert np.array_equal(ours.classes_, plain.classes_)


def test_a_rare_class_is_in_the_sample_that_baselines_learn_from(monkeypatch):
    monkeypatch.setattr(baselines, "_MOST", 12)
    data = load_data(DATA)
    rare = torch.cat([torch.nonzero(data.train.labels == 0)[:150, 0], torch.nonzero(data.train.labels == 1)[:1, 0]])
    train = data.train.subset(rare.sort().values)
    for seed in range(5):
        answered = baselines.OnTest(train, seed).answers("SVM", data.validation)
        assert answered.shape == (len(data.validation), 10)
