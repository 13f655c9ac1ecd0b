"""Metrics of a classification: accuracy, macro-averaged F1, cross-entropy; on request more, and by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
    roc_auc_score,
)

from nasforge.data.split import Split
from nasforge.tasks.task import Answers


def _macro(function: Callable[..., float]) -> Callable[[Answers], float]:
    """Return the mean of a metric over the classes that the split has."""

    def mean(answers: Answers) -> float:
        present = np.unique(answers.truth)
        return float(function(answers.truth, answers.chosen, average="macro", labels=present, zero_division=0.0))

    return mean


def balanced_accuracy(truth: np.ndarray, chosen: np.ndarray) -> float:
    """Return the mean recall over the classes in `truth`.

    scikit-learn computes the same, and warns where an answer names a class that the truth lacks.
    """
    return float(np.mean([np.mean(chosen[truth == number] == number) for number in np.unique(truth)]))


def macro_f1(truth: np.ndarray, chosen: np.ndarray) -> float:
    """Return the mean F1 of the classes in `truth`, equal to scikit-learn's to the last bit.

    scikit-learn's `f1_score` takes 2 ms to check its arguments, at every validation.

    Args:
        truth: N class numbers.
        chosen: N class numbers.
    """
    classes = int(max(truth.max(), chosen.max())) + 1
    right, asked, answered = (
        np.bincount(numbers, minlength=classes) for numbers in (truth[truth == chosen], truth, chosen)
    )
    present = asked > 0
    return float(np.mean(2.0 * right[present] / (asked + answered)[present]))


def _roc_auc(answers: Answers) -> float:
    """Return the mean over the split's classes of one against the rest; 0.5 for a split with only one."""
    present = np.unique(answers.truth)
    if len(present) < 2:
        return 0.5
    if not np.isfinite(answers.probabilities).all():
        return math.nan
    one_against_rest = [roc_auc_score(answers.truth == number, answers.probabilities[:, number]) for number in present]
    return float(np.mean(one_against_rest))


ALWAYS: dict[str, Callable[[Answers], float]] = {
    "accuracy": lambda answers: float(np.mean(answers.truth == answers.chosen)),
    "loss": lambda answers: answers.loss,
    "f1_macro": lambda answers: macro_f1(answers.truth, answers.chosen),
}
EXTRA: dict[str, Callable[[Answers], float]] = {
    "precision_macro": _macro(precision_score),
    "recall_macro": _macro(recall_score),
    "balanced_accuracy": lambda answers: balanced_accuracy(answers.truth, answers.chosen),
    "roc_auc": _roc_auc,
}
"""Metrics that are computed on request."""


_OF_CLASS: dict[str, Callable[..., float]] = {"precision": precision_score, "recall": recall_score, "f1": f1_score}


def figure_of(name: str) -> Callable[[Answers], float] | None:
    """Return one of `EXTRA`, or `recall_of_3` and the like, of a single class; None for another name."""
    kind, separator, number = name.partition("_of_")
    if not separator or kind not in _OF_CLASS or not number.isdecimal():
        return EXTRA.get(name)
    settings: dict[str, Any] = {"labels": [int(number)], "average": "macro", "zero_division": 0.0}
    return lambda answers: float(_OF_CLASS[kind](answers.truth, answers.chosen, **settings))


def unmeasured(names: Iterable[str], split: Split) -> tuple[str, ...]:
    """Return those of `names` that a split cannot measure: metrics of a class that it lacks, AUC of a single class."""
    alone = len(split.absent) >= split.classes - 1
    return tuple(
        name
        for name in names
        if (name == "roc_auc" and alone)
        or (figure_of(name) and name not in EXTRA and int(name.rpartition("_of_")[2]) in split.absent)
    )


def extra_among(metrics: Iterable[str]) -> tuple[str, ...]:
    """Return the names in metric keys such as `val/roc_auc` that `figure_of` knows, each once."""
    names = [metric.removeprefix("val/") for metric in metrics if metric.startswith("val/")]
    return tuple(dict.fromkeys(name for name in names if figure_of(name)))


def figures(answers: Answers, extra: Collection[str] = ()) -> dict[str, float]:
    """Compute `accuracy` (share of right answers), `loss`, `f1_macro`, and the named metrics of `figure_of`."""
    more = {name: figure for name in extra if (figure := figure_of(name))}
    return {name: figure(answers) for name, figure in {**ALWAYS, **more}.items()}


def by_class(answers: Answers, names: Sequence[str]) -> dict[str, Any]:
    """Return, JSON-able, precision, recall and F1 by class with its images, and the confusion matrix by true rows."""
    labels = np.arange(len(names))
    columns = precision_recall_fscore_support(answers.truth, answers.chosen, labels=labels, zero_division=0.0)
    rows = zip(names, *(column.tolist() for column in columns), strict=True)
    return {
        "classes": [
            {"class": name, "images": images, "precision": precision, "recall": recall, "f1": f1}
            for name, precision, recall, f1, images in rows
        ],
        "confusion": confusion_matrix(answers.truth, answers.chosen, labels=labels).tolist(),
    }
