"""Ladders over epochs, share of data and resolution; a training that another trial goes on with."""

import dataclasses

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError, DataError, SearchError
from nasforge.core.ladder import Rung, whole_epochs
from nasforge.core.recipe import Recipe, steps_of
from nasforge.core.trial import Measure
from nasforge.data import load_data
from nasforge.evaluators.training import Training
from nasforge.settings.experiment import DataConfig
from nasforge.settings.spec import SearchSpec
from nasforge.training.loop import train
from nasforge.training.meter import Limits
from nasforge.training.phases import Course, Phase
from nasforge.training.recalibration import recalibrate
from nasforge.training.scoring import Validation
from nasforge.training.state import Checkpoint
from tests.evaluators.test_training import DATA, POINT, SPACE, Told

EVERYTHING = Recipe(
    learning_rate=0.02,
    batch_size=32,
    warmup_epochs=1,
    clip_norm=1.0,
    ema_decay=0.95,
    crop_pixels=2,
    flip=True,
    cutout_pixels=2,
    dropout=0.2,
    precision="fp32",
)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.0),
            nn.Linear(32, 10),
        )


def phases():
    small = load_data(dataclasses.replace(DATA, resolution=4))
    whole = load_data(DATA)
    return [
        Phase(1, small.share_of_train(0.25), small.validation, 10.0),
        Phase(3, whole.share_of_train(0.5), whole.validation, 40.0),
    ]


def trained(net, recipe=EVERYTHING, earlier=None, told=None, seed=5, file=None, start=None, until=None):
    data = load_data(DATA)
    return train(
        net,
        data.train,
        recipe,
        epochs=4,
        seed=seed,
        validation=Validation(data.validation),
        checkpoint=Checkpoint(file, start=start),
        limits=Limits(until),
        earlier=phases() if earlier is None else earlier,
        flops=40.0,
        on_epoch=lambda step, metrics: told is None or told.append((step, dict(metrics))) or True,
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def without_times(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith(("time/", "work/"))}


def test_a_share_is_stratified_and_lies_within_a_larger_one():
    data = load_data(DataConfig("digits"))
    some, more = data.share_of_train(0.2), data.share_of_train(0.5)
    assert len(some) == round(0.2 * len(data.train)) and set(some.index) < set(more.index) < set(data.train.index)
    counts, all_counts = torch.bincount(some.labels), torch.bincount(data.train.labels)
    assert (counts - 0.2 * all_counts).abs().max() <= 1
    assert data.share_of_train(0.2) is some and data.share_of_train(1.0) is data.train


def test_every_phase_has_its_images_and_is_charged_for_them():
    told = []
    trained(network(), told=told)
    # 240 images: 60 are one batch of 32, 120 are three, 240 are seven
    assert [metrics["work/multiply_adds"] for _, metrics in told] == [
        3 * 32 * 10,
        3 * 32 * (10 + 3 * 40),
        3 * 32 * (10 + 6 * 40),
        3 * 32 * (10 + 13 * 40),
    ]
    assert [step for step, _ in told] == [1, 2, 3, 4]


def test_a_mean_of_weights_has_the_statistics_of_the_images_that_it_is_validated_on():
    net = network()
    trained(net, dataclasses.replace(EVERYTHING, ema_decay=0.0, swa_share=1.0), until=1)
    mean = net[1].running_mean.clone()
    crop = dataclasses.replace(EVERYTHING, crop_pixels=1, cutout_pixels=1)  # the images have half the size
    recalibrate(net, phases()[0].split, crop)
    assert torch.equal(net[1].running_mean, mean)


def test_the_schedule_is_counted_in_epochs():
    course = Course([*phases(), Phase(4, load_data(DATA).train, None, 0.0)], EVERYTHING)
    assert [course.steps(epoch) for epoch in range(4)] == [1, 3, 3, 7]
    assert [course.place(epoch, 0) for epoch in range(4)] == [0, 7, 14, 21]
    assert [course.place(1, position) for position in range(3)] == [7, 9, 11]
    assert course.done(3, 2) == 1 + 3 + 3 + 2
    assert course.recipe(0).crop_pixels == 1 and course.recipe(1) == EVERYTHING


def test_the_incomplete_last_batch_counts_where_it_is_kept_and_has_two_images():
    kept = dataclasses.replace(EVERYTHING, keep_last_batch=True)
    assert [steps_of(images, EVERYTHING) for images in (20, 32, 33, 34, 64)] == [1, 1, 1, 1, 2]
    assert [steps_of(images, kept) for images in (1, 20, 32, 33, 34, 64)] == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("optimizer", "until"), [("sgd", 1), ("sgd", 3), ("adamw", 2), ("lamb", 1), ("muon", 2)])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(tmp_path, optimizer, until):
    recipe = dataclasses.replace(EVERYTHING, optimizer=optimizer)
    told, first, then = [], [], []
    whole = network()
    trained(whole, recipe, told=told)
    file = tmp_path / "lower.pt"
    begun = trained(network(), recipe, told=first, file=file, until=until)
    other = network(seed=9)
    ended = trained(other, recipe, told=then, start=file, file=tmp_path / "upper.pt", seed=77)
    assert same(whole, other)
    assert [step for step, _ in first + then] == [1, 2, 3, 4] and begun.steps_done == until
    assert [without_times(m) for _, m in first + then] == [without_times(m) for _, m in told]
    assert begun.charged.multiply_adds + ended.charged.multiply_adds == told[-1][1]["work/multiply_adds"]
    assert then[0][1]["time/worker_s"] < begun.charged.worker_seconds + ended.charged.worker_seconds


def test_epochs_after_an_early_stop_are_not_charged_again(tmp_path):
    recipe = dataclasses.replace(EVERYTHING, learning_rate=1e-9, ema_decay=0.0, early_stopping=1)
    told = []
    trained(network(), recipe, earlier=[], file=tmp_path / "lower.pt", until=3)
    ended = trained(network(), recipe, earlier=[], start=tmp_path / "lower.pt", told=told)
    assert [step for step, _ in told] == [4]
    assert ended.charged.multiply_adds == told[0][1]["work/multiply_adds"] == 0
    assert ended.metrics["time/worker_s"] < 60


def test_an_early_stop_is_undone_by_a_changed_recipe_alone(tmp_path):
    recipe = dataclasses.replace(EVERYTHING, learning_rate=1e-9, ema_decay=0.0, early_stopping=1)
    stopped, kept, changed = network(), network(), network()
    trained(stopped, recipe, earlier=[], file=tmp_path / "lower.pt", until=3)
    as_it_was = trained(kept, recipe, earlier=[], start=tmp_path / "lower.pt")
    assert same(kept, stopped) and as_it_was.charged.multiply_adds == 0
    anew = dataclasses.replace(recipe, learning_rate=0.02)
    went_on = trained(changed, anew, earlier=[], start=tmp_path / "lower.pt")
    assert went_on.charged.multiply_adds == 3 * 32 * 7 * 40 and not same(changed, stopped)


def test_a_continued_training_that_dies_goes_on_from_its_own_checkpoint(tmp_path):
    lower, upper = tmp_path / "lower.pt", tmp_path / "upper.pt"
    whole = network()
    trained(whole)
    trained(network(), file=lower, until=1)

    class Killed(Exception):
        pass

    def dies(step, metrics):
        raise Killed

    data, net = load_data(DATA), network(seed=1)
    with pytest.raises(Killed):
        train(
            *(net, data.train, EVERYTHING),
            **{"epochs": 4, "seed": 7, "validation": Validation(data.validation), "earlier": phases(), "flops": 40.0},
            **{"checkpoint": Checkpoint(upper, start=lower), "on_epoch": dies},
        )
    lower.unlink()
    again = network(seed=2)
    told = []
    ended = trained(again, seed=7, start=lower, file=upper, told=told)
    assert same(whole, again) and [step for step, _ in told] == [2, 3, 4]
    assert ended.charged.multiply_adds == 3 * 32 * 13 * 40


def test_what_may_change_on_the_way_changes_and_what_may_not_is_refused_by_name(tmp_path):
    file = tmp_path / "lower.pt"
    trained(network(), file=file, until=3)
    kept, cooler = network(), network()
    trained(kept, start=file)
    changed = dataclasses.replace(EVERYTHING, learning_rate=1e-9, weight_decay=0.1, momentum=0.0, dropout=0.1)
    moved = trained(cooler, changed, start=file)
    assert not same(kept, cooler) and moved.steps_done == 4
    without = network()
    trained(without, dataclasses.replace(EVERYTHING, weight_decay=0.0), start=file)
    assert not same(kept, without)
    with raises(SearchError, "changed", None, "batch_size", 32, 16):
        trained(network(), dataclasses.replace(EVERYTHING, batch_size=16), start=file)
    with raises(SearchError, "changed", None, "ladder"):
        trained(network(), earlier=phases()[1:], start=file)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.0))
    with raises(SearchError, "changed", None, "network"):
        trained(wider, earlier=[], start=file)
    file.write_bytes(b"torn")
    with raises(DataError, "unreadable"):
        trained(network(), start=file)


LADDER = [Rung(1, share=0.5, resolution=4), Rung(2), Rung(4)]


def evaluator(ladder=LADDER):
    return Training(SearchSpec(SPACE, DATA, ladder, {"precision": "fp32"}), device="cpu")


def at(folder, number):
    report = Told(folder)
    report.number = report.seed = number
    report.checkpoint = folder / "artifacts" / str(number) / "checkpoint.pt"
    report.folder = folder / "artifacts" / str(number) / "attempt-1"
    report.folder.mkdir(parents=True)
    return report


def test_a_rung_is_the_beginning_of_the_top_rungs_training(tmp_path):
    whole = at(tmp_path, 5)
    expected = evaluator()(Measure(POINT), whole)
    low, middle, top = at(tmp_path, 6), at(tmp_path, 7), at(tmp_path, 8)
    low.seed = whole.seed  # the others' seeds do not matter: generators go on as well
    first = evaluator()(Measure(POINT, rung=0), low)
    second = evaluator()(Measure(POINT, rung=1, weights=first.artifacts["checkpoint"]), middle)
    third = evaluator()(Measure(POINT, rung=2, weights=second.artifacts["checkpoint"]), top)
    steps = [step for report in (low, middle, top) for step, _ in report.steps]
    assert steps == [step for step, _ in whole.steps] == [1, 2, 3, 4]
    assert (first.steps_done, second.steps_done, third.steps_done) == (1, 2, 4)
    assert without_times(third.metrics) == without_times(expected.metrics)
    assert third.artifacts["weights"].sha256 == expected.artifacts["weights"].sha256
    assert "checkpoint" not in third.artifacts and "checkpoint" not in expected.artifacts
    total = sum(result.charged.multiply_adds for result in (first, second, third))
    assert total == expected.charged.multiply_adds
    # 120 images of a quarter of the pixels: one batch of 64, much cheaper than one of whole images
    assert first.charged.multiply_adds < 0.5 * 3 * 64 * low.costs["cost/flops"]


def test_a_ladders_resolution_must_be_lower_than_the_images():
    with raises(ConfigError, "range", "ladder", 8):
        _ = evaluator([Rung(1, resolution=8), Rung(2)]).about.data_hash


def test_what_a_ladder_costs_in_whole_epochs():
    assert whole_epochs([Rung(3)]) == 3
    assert whole_epochs([Rung(1, share=0.2), Rung(3, share=0.5), Rung(9)]) == pytest.approx(0.2 + 1 + 6)
    assert whole_epochs([Rung(2, resolution=4), Rung(3)], edge=8) == pytest.approx(1.5)
