"""The learning curve: its forecast, its folds, and what it does without time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nasforge.api.fit.curve import FEWEST, folds_within, growth, learning_curve, share_of, share_of_last
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import end_of
from nasforge.api.fit.work import Answered
from nasforge.core.trial import Charge, Measure, Result, Trial
from nasforge.data.split import Split
from nasforge.settings.experiment import load_space
from nasforge.views.fit_remarks import more_photos


def answers(errors, count=1000):
    """The last image is the hardest: every error is among those of the larger ones."""
    return [np.arange(count) >= round(error * count) for error in errors]


def test_a_power_law_is_continued():
    twice = growth([100, 200, 400], answers([0.2, 0.2 * 2**-0.5, 0.1]))
    assert twice.gain == pytest.approx(0.1 * (1 - 2**-0.5), abs=0.001)
    assert 0 < twice.low < twice.gain < twice.high < 0.05


def test_two_points_are_enough():
    assert growth([200, 400], answers([0.2, 0.15])).gain == pytest.approx(0.15 * 0.25, abs=0.001)


def test_more_images_are_never_forecast_to_harm_or_to_give_more_than_half_of_the_errors():
    assert growth([200, 400], answers([0.1, 0.2])).gain == 0
    steep = growth([100, 200, 400], answers([0.9, 0.3, 0.02]))
    assert steep.gain == pytest.approx(0.01, abs=0.001) and steep.high <= 0.02
    none = growth([100, 200, 400], answers([0.0, 0.0, 0.0]))
    assert max(none.gain, none.high) < 1e-12


def test_folds_that_are_too_few_tell_nothing():
    assert folds_within(100, 10, [50] * 5) == 5
    assert folds_within(35, 10, [50] * 5) == 3
    assert folds_within(15, 10, [FEWEST - 1] * 5) == 0
    assert folds_within(5, 10, [500]) == folds_within(-3, 10, [500]) == 0


def test_a_share_has_every_class_and_lies_within_a_larger_one():
    labels = torch.tensor([0] * 40 + [1] * 12 + [2])
    pixels = torch.zeros((53, 1, 4, 4), dtype=torch.uint8).numpy()
    split = Split(pixels, np.arange(53), labels, 3, (0.5,), (0.5,))
    half, quarter = share_of(split, 0.5, 0), share_of(split, 0.25, 0)
    assert half.labels.bincount().tolist() == [19, 6, 1] and quarter.labels.bincount().tolist() == [9, 3, 1]
    assert set(quarter.index) < set(half.index)


def test_only_one_preset_keeps_time_for_it():
    assert share_of_last("balanced") == 1 and share_of_last("thorough") < 1


class Toy:
    """As much of a fit as the curve needs: two folds of noise, and no clock."""

    def __init__(self, seconds, used=0.0):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (160, 1, 8, 8), dtype=np.uint8)
        labels = torch.from_numpy(rng.integers(0, 2, 160))
        whole = Split(pixels, np.arange(160), labels, 2, (0.5,), (0.3,))
        halves = [whole.subset(torch.arange(place, 160, 2)) for place in (0, 1)]
        self.splits, self.places, self.folds = [(halves[0], halves[1]), (halves[1], halves[0])], np.arange(160), 2
        self.seconds, self.log, self.labels = seconds, Log(used), labels.numpy()
        self.plan, self.data = SimpleNamespace(epochs=2, images=None), SimpleNamespace(shape=(1, 8, 8))
        self.request = SimpleNamespace(seed=0, device="cpu")

    @property
    def end(self):
        return end_of(self.seconds)

    def config_of_search(self):
        return SimpleNamespace(space=load_space("tiny"), recipe={"batch_size": 16})

    def curve(self):
        trial = Trial(3, Measure(load_space("tiny").default_point()))
        result = Result("finished", charged=Charge(20.0))
        trial = trial.changed(result=result)
        row = Row("found", "found", {}, trial=3)
        right = np.eye(2)[self.labels]
        return learning_curve(self, SimpleNamespace(trials={3: trial}), Answered(row, right))


class Log:
    def __init__(self, used):
        self.used, self.entries = used, []

    def write(self, kind, **content):
        self.used += 10 * (kind == "curved")
        self.entries.append({"kind": kind, **content})
        return self.entries[-1]

    def last(self, kind, **entries):
        fits = [e for e in self.entries if e["kind"] == kind and all(e.get(k) == v for k, v in entries.items())]
        return fits[-1] if fits else None


def test_a_curve_is_measured_on_all_folds_and_read_back():
    toy = Toy(600)
    curve = toy.curve()
    assert [(point["share"], point["images"]) for point in curve["learning_curve"]] == [
        (0.25, 20),
        (0.5, 40),
        (1.0, 80),
    ]
    assert curve["learning_curve"][-1]["accuracy"] == 1.0 and 0 <= curve["twice"]["low"] <= curve["twice"]["high"]
    assert sum(entry["kind"] == "curved" for entry in toy.log.entries) == 4
    count = len(toy.log.entries)
    assert toy.curve() == curve and len(toy.log.entries) == count
    toy.log.entries = [e for e in toy.log.entries if e["kind"] == "curved"][:3]  # killed before its last training
    assert toy.curve() == curve and len(toy.log.entries) == 5


def test_without_time_the_log_alone_says_so_until_there_is_more():
    toy = Toy(100, used=85)
    assert toy.curve() == {} and "a training takes 10 s" in toy.log.entries[-1]["omitted"]
    assert toy.curve() == {} and len(toy.log.entries) == 1
    toy.seconds = 600
    assert "twice" in toy.curve()


def test_trainings_that_ended_early_are_compared_with_nothing():
    toy = Toy(600)
    toy.log.write("late", trial=3)
    assert toy.curve() == {} and "ended early" in toy.log.entries[-1]["omitted"]


def test_a_little_time_gives_two_points():
    curve = Toy(60, used=25).curve()
    assert [point["share"] for point in curve["learning_curve"]] == [0.5, 1.0]


def test_it_is_one_sentence():
    twice = {"gain": 0.021, "low": 0.0, "high": 0.04}
    assert more_photos({"twice": twice}) == "Twice the photos: about +2.1 % accuracy (0.0 to 4.0)"
    assert more_photos({}) == ""
