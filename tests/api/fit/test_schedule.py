import pytest
from expecting import raises

from nasforge.api.fit import schedule
from nasforge.core.errors import ConfigError
from nasforge.core.recipe import FEWEST_STEPS


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), (" 1.5 min", 90), ("45", 45), (30, 30)]
)
def test_times_are_read(text, seconds):
    assert schedule.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "10 days", True, float("inf"), None])
def test_other_texts_are_no_times(text):
    with raises(ConfigError, "type", "time", "10m"):
        schedule.seconds_of(text)


@pytest.mark.parametrize("text", ["0s", "0", "0.0 h"])
def test_no_time_is_out_of_range(text):
    with raises(ConfigError, "range", "time", "10m"):
        schedule.seconds_of(text)


def planned(seconds, per_step=0.02, images=240, batch=32, folds=5, preset="balanced", used=8.0):
    counts = (1,) if folds == 1 else (folds, 3, 2)
    return schedule.plan_of(seconds, used, per_step, images, batch, counts, preset)


@pytest.mark.parametrize("seconds", [60, 180, 600, 3600])
@pytest.mark.parametrize("per_step", [0.005, 0.02, 0.1])
@pytest.mark.parametrize(("images", "folds"), [(240, 5), (1900, 5), (20_000, 1)])
def test_a_plan_fits_into_the_time_and_its_trainings_learn(seconds, per_step, images, folds):
    plan = planned(seconds, per_step, images, 32, folds)
    if plan is None:
        assert seconds < schedule.least_seconds(8.0, per_step, images, 32, folds)
        return
    search = schedule.search_until(seconds, plan)
    assert seconds - schedule.end_of(seconds) - search >= 2.5 * plan.training
    assert plan.steps >= FEWEST_STEPS / 4 and 8.0 + plan.folds * plan.training <= search


def test_with_little_time_there_are_fewer_folds_before_there_are_fewer_steps():
    assert (planned(600).folds, planned(600).steps >= 600) == (5, True)
    assert planned(80).folds < 5 and planned(80).steps >= FEWEST_STEPS
    short = planned(45)
    assert short.folds <= 3 and FEWEST_STEPS / 4 <= short.steps < FEWEST_STEPS
    assert planned(12) is None


def test_a_short_fit_keeps_most_of_its_time_for_the_last_training():
    plan = schedule.Plan(folds=2, epochs=40, steps=160, training=20.0)
    assert schedule.last_of(180, plan) == 91
    assert schedule.last_of(60, plan) == 52  # two trainings on all images
    assert schedule.last_of(600, schedule.Plan(5, 50, 300, 10.0)) == 120  # a longer one would not be used


def test_candidates_are_compared_on_fewer_folds_rather_than_one_candidate_on_many():
    plan = planned(600, per_step=0.129, used=10.0)
    searched = schedule.search_until(600, plan) - 10.0 - schedule.baseline_seconds(600)
    assert plan.folds == 2 and searched >= 3 * plan.folds * plan.training


def test_little_data_is_trained_for_many_epochs_and_much_for_few():
    assert planned(600, images=240).epochs > 60
    assert planned(600, images=50_000, folds=1, batch=64).epochs < 10
    assert planned(600, images=40, batch=32).epochs >= 100


def test_presets_are_shorter_and_longer():
    steps = [planned(600, preset=preset).steps for preset in ("quick", "balanced", "thorough")]
    assert steps == sorted(steps) and steps[0] < steps[2]


def test_the_last_training_is_longer_where_time_is_left():
    plan = schedule.Plan(folds=5, epochs=10, steps=600, training=10.0)
    assert schedule.last_epochs(plan, 100.0, 1.0, 10) == 100
    assert schedule.last_epochs(plan, 1000.0, 1.0, 10) == 180  # three times what time is kept for
    assert schedule.last_epochs(plan, 12.5, 1.0, 10) == 12
    assert schedule.last_epochs(plan, 0.0, 1.0, 10) == 10
    assert schedule.last_epochs(plan, 5.5, 1.0, 1) == 5, "after a candidate that was late"


def test_the_last_training_after_very_short_ones_is_long_enough_to_learn():
    assert schedule.most_epochs(epochs=2, steps=500) == 30
    assert schedule.most_epochs(epochs=20, steps=80) == 450  # 1,800 steps


def test_a_late_last_training_keeps_the_time_within_a_tenth():
    assert schedule.last_training_may_take(10, 90.0, 180.0, 1.0) == 99.0  # not half as long again
    assert schedule.last_training_may_take(10, 0.0, 180.0, 4.0) == 60.0  # the fewest epochs come first


def test_folds_are_for_little_data():
    assert [schedule.folds_of(n, 40) for n in (300, 1999, 2000)] == [5, 5, 1]
    assert schedule.folds_of(100, 3) == 3


def test_very_many_images_are_searched_on_a_share_that_is_passed_three_times():
    plan = planned(180, per_step=0.01, images=80_000, folds=1)
    assert plan.images is not None and 2000 <= plan.images < 40_000 and plan.epochs == 3
    assert plan.training < 0.1 * 180
    assert planned(180, per_step=0.01, images=5000, folds=1).images is None
    assert planned(180, per_step=0.1, images=80_000, folds=1).images == 4000  # 300 steps of 32 in three passes


def test_the_last_training_after_a_share_sees_as_many_images_as_time_allows():
    plan = schedule.Plan(1, 3, 600, 10.0, images=8000)
    assert schedule.last_share(plan, 100.0, 0.001, 80_000) == (33_333, 3)
    assert schedule.last_share(plan, 400.0, 0.001, 80_000) == (None, 5)
    assert schedule.last_share(plan, 1.0, 0.001, 80_000) == (8000, 3)  # as in the search at least
    assert schedule.last_share(plan, 1e6, 0.001, 80_000) == (None, schedule.LAST_EPOCHS)
