import math

import numpy as np
import pytest

from nasforge.api.fit import judging
from nasforge.api.fit.judging import choose, is_ahead, is_constant, per_image
from nasforge.api.fit.rows import METRICS


def answers(truth, right, classes=3, sure=0.8):
    """Probabilities that choose the true class where `right`, else the next one."""
    chosen = np.where(right, truth, (truth + 1) % classes)
    probabilities = np.full((len(truth), classes), (1 - sure) / (classes - 1))
    probabilities[np.arange(len(truth)), chosen] = sure
    return probabilities


@pytest.fixture
def truth():
    return np.repeat([0, 1, 2], [60, 30, 10])


def test_figures_are_those_of_scikit_learn_and_the_mean_over_images(truth):
    answered = answers(truth, np.arange(100) % 4 > 0)
    scores = judging.figures(truth, answered)
    assert scores["accuracy"] == 0.75
    assert per_image("accuracy", truth, answered).mean() == pytest.approx(scores["accuracy"])
    assert per_image("balanced_accuracy", truth, answered).mean() == pytest.approx(scores["balanced_accuracy"])
    assert per_image("loss", truth, answered).mean() == pytest.approx(-scores["loss"])


def test_intervals_hold_the_figures_and_shrink_with_more_images(truth):
    answered = answers(truth, np.arange(100) % 4 > 0)
    intervals, figures = judging.intervals(truth, answered), judging.figures(truth, answered)
    many = judging.intervals(np.tile(truth, 20), np.tile(answered, (20, 1)))
    for name in METRICS:
        low, high = intervals[name]
        assert low < figures[name] < high
        assert many[name][1] - many[name][0] < (high - low) / 3


def test_the_cheapest_within_the_noise_of_the_best_wins(truth):
    rng = np.random.default_rng(0)
    right = rng.random(100) < 0.8
    nearly = right.copy()
    nearly[np.flatnonzero(right)[:2]] = False
    nearly[np.flatnonzero(~right)[0]] = True
    poor = rng.random(100) < 0.4
    scores = {
        name: per_image("accuracy", truth, answers(truth, hits))
        for name, hits in {"large": right, "small": nearly, "tiny": poor}.items()
    }
    chosen = choose(scores, {"large": 100.0, "small": 10.0, "tiny": 1.0})
    assert (chosen.winner, chosen.best, chosen.compared) == ("small", "large", 3)
    assert 0 < chosen.behind <= chosen.error
    alone = choose({"large": scores["large"], "tiny": scores["tiny"]}, {"large": 100.0, "tiny": 1.0})
    assert alone.winner == "large" and alone.behind == 0
    assert is_ahead(scores["large"], scores["tiny"]) and not is_ahead(scores["tiny"], scores["large"])


def test_of_equally_cheap_candidates_the_first_wins_unless_another_is_clearly_ahead(truth):
    right = np.arange(len(truth)) % 10 > 0
    some, many = right.copy(), right.copy()
    some[[1, 2, 3]] = False  # 3 of 100 behind, by 1.7 standard errors
    many[[1, 2, 3, 4, 5, 6, 7]] = False  # by 2.7
    scores = {
        name: per_image("accuracy", truth, answers(truth, hits))
        for name, hits in {"many": many, "some": some, "right": right}.items()
    }
    assert choose(scores, dict.fromkeys(scores, 1.0)).winner == "some"
    assert choose(scores, {"many": 1.0, "some": 0.5, "right": 1.0}).winner == "right"  # a cheaper one must be nearer


def test_always_the_largest_class_is_is_constant(truth):
    constant = np.tile([0.6, 0.3, 0.1], (100, 1))
    assert is_constant(truth, constant)
    assert not is_constant(truth, answers(truth, np.arange(100) % 10 > 0))


def test_the_temperature_makes_answers_as_sure_as_they_are_right(truth):
    truth = np.tile(truth, 20)
    right = np.random.default_rng(0).random(len(truth)) < 0.7
    sure = answers(truth, right, sure=0.99)
    temperature = judging.temperature_of(truth, sure)
    assert temperature > 1.5
    assert judging.calibrated(sure, temperature).max(1).mean() == pytest.approx(0.7, abs=0.03)
    assert np.array_equal(judging.calibrated(sure, temperature).argmax(1), sure.argmax(1))


def test_unsure_below_keeps_answers_of_which_enough_are_right():
    truth = np.zeros(100, dtype=int)
    answered = np.stack([np.linspace(0.99, 0.51, 100), 1 - np.linspace(0.99, 0.51, 100)], axis=1)
    answered[80:] = answered[80:, ::-1]  # the least sure answers are wrong
    threshold = judging.unsure_below(truth, answered)
    kept = answered.max(1) >= threshold
    assert 80 <= kept.sum() < 90 and (answered[kept].argmax(1) == 0).mean() >= 0.95
    assert judging.unsure_below(truth[:80], answered[:80]) == 0
    assert judging.unsure_below(truth[80:], answered[80:]) == 1


def test_equally_sure_answers_are_on_one_side_of_unsure_below():
    truth = np.zeros(60, dtype=int)
    answered = np.tile([0.9, 0.1], (60, 1))
    answered[40:] = 0.2, 0.8  # wrong, and less sure
    assert judging.unsure_below(truth, answered) == 0.9
    truth[20:40] = 1  # half of the equally sure answers
    assert judging.unsure_below(truth, answered) == judging.unsure_below(truth[::-1], answered) == 1


def test_confused_pairs_and_doubtful_labels_are_named(truth):
    answered = answers(truth, np.r_[np.zeros(3, bool), np.ones(97, bool)])
    assert [(c.truth, c.taken_for, c.images) for c in judging.confusions(truth, answered)] == [(0, 1, 3)]
    doubtful = judging.doubtful(truth, [answered, answered])
    assert {(row, likely) for row, likely, _ in doubtful} == {(0, 1), (1, 1), (2, 1)}


def test_macro_f1_has_a_summand_per_image_whose_error_is_that_of_bootstrap_samples(truth):
    truth = np.tile(truth, 4)
    rng = np.random.default_rng(0)
    one, other = (answers(truth, rng.random(len(truth)) < share) for share in (0.85, 0.7))
    summands = [per_image("f1_macro", truth, answered) for answered in (one, other)]
    for answered, of_images in zip((one, other), summands, strict=True):
        assert of_images.mean() == pytest.approx(judging.figures(truth, answered)["f1_macro"])
    difference = summands[0] - summands[1]
    error = difference.std(ddof=1) / np.sqrt(len(truth))
    sampled = []
    for _ in range(300):
        rows = rng.integers(0, len(truth), len(truth))
        first, second = (judging.figures(truth[rows], answered[rows])["f1_macro"] for answered in (one, other))
        sampled.append(first - second)
    assert error == pytest.approx(np.std(sampled), rel=0.15)


def test_macro_f1_leaves_out_a_class_without_images():
    truth = np.repeat([0, 1], 10)
    answered = answers(truth, np.arange(20) % 5 > 0)  # a fifth of the second class is taken for a third one
    assert per_image("f1_macro", truth, answered).mean() == pytest.approx(judging.figures(truth, answered)["f1_macro"])


def test_a_thousand_classes_need_no_matrix_of_all_pairs():
    truth = np.arange(3000) % 1000
    answered = np.full((3000, 1000), 1e-5, np.float32)
    answered[np.arange(3000), np.where(np.arange(3000) % 5, truth, (truth + 1) % 1000)] = 0.99
    intervals, figures = judging.intervals(truth, answered), judging.figures(truth, answered)
    for name in METRICS:
        assert intervals[name][0] < figures[name] < intervals[name][1] < intervals[name][0] + 0.1


def test_without_a_wrong_answer_among_few_the_answers_are_not_made_certain():
    """A network that is right on all 30 validation images, and wrong on some others."""
    seen = np.repeat([0, 1, 2], 10)
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.55, 0.99, 30)
    answered = np.full((30, 3), ((1 - sure) / 2)[:, None])
    answered[np.arange(30), seen] = sure
    temperature = judging.temperature_of(seen, answered)
    assert 0.2 < temperature < 1
    assert judging.calibrated(np.array([[0.6, 0.2, 0.2]]), temperature).max() < 0.995
    many = judging.temperature_of(np.tile(seen, 50), np.tile(answered, (50, 1)))
    assert many < temperature, "the more images, the surer"


def test_images_of_one_class_do_not_say_that_nothing_was_learnt():
    truth = np.zeros(40, int)
    assert not is_constant(truth, answers(truth, np.ones(40, bool)))


def test_a_doubtful_label_is_as_likely_as_images_of_the_other_class_usually_are():
    """Class 0 is always sure, class 1 seldom: .7 for another label is much for class 1, little for class 0."""
    truth = np.repeat([0, 1], [50, 50])
    sure = np.where(truth == 0, 0.95, 0.6)
    probabilities = np.stack([np.where(truth == 0, sure, 1 - sure), np.where(truth == 0, 1 - sure, sure)], 1)
    probabilities[0] = (0.3, 0.7)
    probabilities[99] = (0.7, 0.3)
    assert [(row, likely) for row, likely, _ in judging.doubtful(truth, [probabilities])] == [(0, 1)]


def test_images_of_one_class_have_no_balanced_accuracy_and_no_interval_of_it():
    truth, probabilities = np.zeros(10, int), answers(np.zeros(10, int), np.ones(10, bool))
    assert math.isnan(judging.figures(truth, probabilities)["balanced_accuracy"])
    assert all(map(math.isnan, judging.intervals(truth, probabilities)["balanced_accuracy"]))
