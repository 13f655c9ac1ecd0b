"""The direction of a metric by its name, and the error that asks for it."""

from __future__ import annotations

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.goals import Objective
from nasforge.core.metrics import METRICS, column_direction, direction, form_of, metric_of_column, short_name, title_of

LESS = [
    *("val/mse", "mse", "val/mse_std", "val/MSE", "valid_rmse", "val/mae", "val/nll", "val/perplexity", "val/loss"),
    *("val/top1_error", "val/error_rate", "val/accuracy_std", "val/cross_entropy", "val/logloss", "test/wer", "fid"),
    *("cost/joules", "cost/anything", "time/anything", "work/anything", "latency_ms", "val/false_positive_rate"),
    *("val/negative_log_likelihood", "train/loss", "val/crossLoss"),
]
MORE = [
    *("val/accuracy", "acc", "val/top-5-accuracy", "val/f1", "val/F1", "f1_macro", "val/roc_auc", "val/recall_of_3"),
    *("val/psnr", "val/ssim", "bleu4", "val/mAP", "val/AP50", "val/miou", "r2", "val/r2_score", "zc/my_own"),
    *("val/log_likelihood", "val/true_positive_rate", "val/balancedAccuracy"),
]
UNKNOWN = [
    *("val/score", "signal", "cifar10_val_e12", "e9", "val/neg_mse", "val/1-accuracy", "val/accuracy_loss", "val/"),
    *("val/entropy", "val/precisely", "val/massacre", "alphas/skips", "train/epochs", "accuracy/fold"),
]


@pytest.mark.parametrize(("names", "expected"), [(LESS, False), (MORE, True), (UNKNOWN, None)])
def test_directions_by_whole_words_of_the_last_part(names, expected):
    assert {name: direction(name) for name in names} == dict.fromkeys(names, expected)


def test_known_metrics_agree_with_the_rule_for_words():
    for metric in METRICS.values():
        assert direction(f"x_{metric.key}") in (metric.maximise, None), metric.key


def test_columns_are_named_by_patterns():
    assert column_direction("valid_mse") is column_direction("loss[12]") is column_direction("err_e{epochs}") is False
    assert column_direction("accuracy[12]") is True
    assert column_direction("score") is None
    assert metric_of_column("valid_mse_e{epochs}") == "val/mse"
    assert metric_of_column("val_cross_entropy") == "val/cross_entropy"
    assert metric_of_column("accuracy") is metric_of_column("e9") is None


def test_an_unknown_direction_is_asked_for():
    with raises(ConfigError, "missing", "val/score", "max:val/score", "min:val/score"):
        Objective.parse("val/score")
    with raises(ConfigError, "missing", "val/acuracy", "val/accuracy"):
        Objective.parse("val/acuracy")
    assert Objective.parse("max:val/score") == Objective("val/score", True)
    assert Objective.parse("max:val/mse") == Objective("val/mse", True), "what is said goes over the name"


@pytest.mark.parametrize("text", ["max:val/score", "min:val/score", "max:val/mse", "min:val/accuracy"])
def test_journals_keep_the_direction_that_they_have(text):
    assert str(Objective.recorded(text)) == text


def test_a_recorded_name_without_a_direction_keeps_the_rule_that_held():
    assert Objective.recorded("val/score").maximise and Objective.recorded("val/mse").maximise
    assert not Objective.recorded("val/loss").maximise and not Objective.recorded("cost/flops").maximise


def test_how_values_are_printed():
    assert [form_of(key) for key in ("cost/params", "time/own", "val/accuracy", "val/own")] == [
        "count",
        "seconds",
        "number",
        "number",
    ]
    names = [short_name(key) for key in ("val/f1_macro", "test/f1_macro", "f1_macro", "train/loss", "test/own_metric")]
    assert names == ["macro F1", "macro F1", "macro F1", "loss", "own metric"]
    assert title_of("cost/flops") == "FLOPs (multiply-adds)" and title_of("val/own") == "val/own"
